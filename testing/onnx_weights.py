"""Weights under torch's names as ONNX's operator LSTM takes them."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def onnx_weights(state: Mapping[str, Any], layer: int = 0) -> dict[str, np.ndarray]:
    """Return W, R and, if there are biases, B of a layer.

    They are stacked by direction, and B holds both biases end to end. The gates are in the order i, o, f, c,
    where c is torch's g.
    """
    suffixes = [s for s in (f"_l{layer}", f"_l{layer}_reverse") if f"weight_ih{s}" in state]

    def stacked(name: str) -> np.ndarray:
        i, f, g, o = np.split(np.stack([state[name + suffix] for suffix in suffixes]), 4, axis=1)
        return np.concatenate([i, o, f, g], axis=1)

    weights = {"W": stacked("weight_ih"), "R": stacked("weight_hh")}
    if "bias_ih_l0" in state:
        weights["B"] = np.concatenate([stacked("bias_ih"), stacked("bias_hh")], axis=1)
    return weights
