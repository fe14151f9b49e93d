"""Naming a fault of the derivative: values that are right, and gradients that are not.

The derivative of the oracle is taken once more with a part of it cut, and compared with the port's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxlstm.check import answer
from jaxlstm.check.inputs import Case
from jaxlstm.check.oracle import Gradients, backward, forward
from jaxlstm.check.report import number
from jaxlstm.config import LSTMConfig

Array = np.ndarray
AGREES = 1e-8


@dataclass(frozen=True)
class Cut:
    """A part of the derivative left out: of the weights that lead back, or of the cotangents."""

    cause: str
    weights: Callable[[str], bool] = lambda name: False
    cotangents: tuple[bool, bool, bool] = (True, True, True)


def cuts(config: LSTMConfig) -> Iterator[Cut]:
    """Those that a config can have."""
    if config.bidirectional:
        yield Cut(
            "the gradient of a layer's inputs is that of the forward direction alone",
            lambda name: name.startswith("weight_ih") and name.endswith("_reverse"),
        )
        yield Cut(
            "the gradient of a layer's inputs is that of the reverse direction alone",
            lambda name: name.startswith("weight_ih") and not name.endswith("_reverse"),
        )
    yield Cut(
        "no gradient passes through h from step to step", lambda name: name.startswith("weight_hh")
    )
    for layer in range(1, config.num_layers):
        yield Cut(
            f"no gradient passes from layer {layer} to layer {layer - 1}",
            lambda name, layer=layer: name.startswith(f"weight_ih_l{layer}"),
        )
    yield Cut("the cotangent of h_n is left out", cotangents=(True, False, True))
    yield Cut("the cotangent of c_n is left out", cotangents=(True, True, False))
    yield Cut("the cotangents of h_n and c_n are left out", cotangents=(True, False, False))


@np.errstate(all="ignore")  # weights may be infinite
def explain_gradients(
    ours: Mapping[str, Array], params: Mapping[str, Any], config: LSTMConfig, case: Case
) -> list[str]:
    """What explains the gradients of a port whose values are right; empty if they are right."""
    truth = answer.of_oracle(params, config, case, gradients=True).gradients
    assert truth is not None
    if not _differing(ours, truth):
        return []
    tolerance = AGREES if ours["inputs"].dtype == np.float64 else 1e-3
    result = forward(params, case.inputs, case.initial_state, case.seq_lengths, config)
    for cut in cuts(config):
        weights = {
            name: np.asarray(a, np.float64) * (not cut.weights(name)) for name, a in params.items()
        }
        cotangents = tuple(
            a * kept for a, kept in zip(case.cotangents, cut.cotangents, strict=True)
        )
        found = backward(weights, result, case.seq_lengths, config, cotangents)  # type: ignore[arg-type]
        wrong = _differing(ours, _named(found, truth), tolerance)
        if not wrong:
            return [f"the gradients agree if {cut.cause}"]
    return _leaf_by_leaf(ours, truth, config)


def _named(found: Gradients, like: Mapping[str, Array]) -> dict[str, Array]:
    named = {**found.params, "inputs": found.inputs, "h_0": found.h_0, "c_0": found.c_0}
    return {name: named[name] for name in like}


def _differing(
    ours: Mapping[str, Array], theirs: Mapping[str, Array], tolerance: float | None = None
) -> list[str]:
    """The names of the gradients that are further apart than rounding."""
    names = []
    for name in (name for name in theirs if name in ours):
        value = ours[name]
        far = AGREES if value.dtype == np.float64 else 1e-3
        scale = np.max(np.abs(theirs[name]), initial=0.0) or 1.0
        error = np.max(np.abs(np.asarray(value, np.float64) - theirs[name]), initial=0.0)
        if not error <= (tolerance or far) * scale:
            names.append(name)
    return names


def _leaf_by_leaf(
    ours: Mapping[str, Array], truth: Mapping[str, Array], config: LSTMConfig
) -> list[str]:
    wrong = _differing(ours, truth)
    if {"h_0", "c_0"} <= set(wrong) and ours["h_0"].shape == ours["c_0"].shape:
        swapped = {"h_0": ours["c_0"], "c_0": ours["h_0"]}
        if not _differing(swapped, truth):
            others = [name for name in wrong if name not in swapped]
            return ["the gradients of h_0 and c_0 are swapped", *_each(ours, truth, others)]
    return _each(ours, truth, wrong)


def _each(ours: Mapping[str, Array], truth: Mapping[str, Array], names: list[str]) -> list[str]:
    """One line for the gradients that are wrong alike."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(_in_words(np.asarray(ours[name], np.float64), truth[name]), []).append(
            name
        )
    return [f"the gradient of {', '.join(group)} {words}" for words, group in alike.items()]


def _in_words(actual: Array, expected: Array) -> str:
    if not actual.any():
        return "is zero"
    if not np.isfinite(actual).all():
        return "is not finite"
    factor = float(np.vdot(actual, expected) / np.vdot(expected, expected))
    if np.max(np.abs(actual - factor * expected)) <= 1e-4 * np.max(np.abs(actual)):
        return f"is {number(factor)} times what it should be"
    return "is wrong"
