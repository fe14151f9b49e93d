"""Filling a Flax layer from the torch layer of the same kind, by hand: these tests need no converter."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn


def fill(flax: Any, layer: nn.Module) -> None:
    """Copy the weights of a torch layer into the Flax layer of the same kind."""
    arrays = {name: a.detach().numpy().copy() for name, a in layer.state_dict().items()}
    match layer:
        case nn.LSTM():
            flax.load_params(arrays)
            return
        case nn.MultiheadAttention():
            _fill_attention(flax, arrays)
            return
        case nn.Embedding():
            flax.embedding[...] = arrays["weight"]
            return
        case nn.Linear():
            flax.kernel[...] = arrays["weight"].T
        case nn.Conv2d():
            flax.kernel[...] = arrays["weight"].transpose(2, 3, 1, 0)
        case nn.Conv1d():
            flax.kernel[...] = arrays["weight"].transpose(2, 1, 0)
        case nn.LayerNorm() | nn.GroupNorm() | nn.BatchNorm1d() | nn.BatchNorm2d():
            flax.scale[...] = arrays["weight"]
    if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
        flax.mean[...], flax.var[...] = arrays["running_mean"], arrays["running_var"]
    if flax.bias is not None:
        flax.bias[...] = arrays["bias"]


def _fill_attention(flax: Any, arrays: dict[str, np.ndarray]) -> None:
    heads, width = flax.num_heads, flax.in_features
    weights, biases = (np.split(arrays[f"in_proj_{kind}"], 3) for kind in ("weight", "bias"))
    for part, weight, bias in zip((flax.query, flax.key, flax.value), weights, biases, strict=True):
        part.kernel[...], part.bias[...] = weight.T.reshape(width, heads, -1), bias.reshape(heads, -1)
    flax.out.kernel[...] = arrays["out_proj.weight"].T.reshape(heads, -1, width)
    flax.out.bias[...] = arrays["out_proj.bias"]
