"""Naming a fault of the derivative, for subjects whose results are right and whose gradients are wrong.

For an LSTM, the derivative of the oracle is taken again with a part of it cut, and compared with the port's
gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from jaxlstm._shared.table import format_number
from jaxlstm.check.cases.case import Case
from jaxlstm.check.reference.derivative import backward
from jaxlstm.check.reference.oracle_lstm import OracleLSTM
from jaxlstm.layer.config import LSTMConfig

Array = np.ndarray

EXACT, ROUNDED = 1e-8, 1e-3
"""Largest error relative to the largest element of a gradient, in float64 and in other dtypes."""


Cut = tuple[str, Callable[[str], bool], tuple[bool, bool, bool]]
"""A part of the derivative that is left out: its description, the names of the weights through which nothing
is propagated back, and which of the cotangents of outputs, h_n and c_n are used."""


def _cuts(config: LSTMConfig) -> Iterator[Cut]:
    """Yield the cuts that a config can have."""
    whole = (True, True, True)
    if config.bidirectional:
        yield (
            "the gradient of a layer's inputs includes only the forward direction",
            lambda name: name.startswith("weight_ih") and name.endswith("_reverse"),
            whole,
        )
        yield (
            "the gradient of a layer's inputs includes only the reverse direction",
            lambda name: name.startswith("weight_ih") and not name.endswith("_reverse"),
            whole,
        )
    cause = "no gradient passes through h from step to step"
    yield cause, lambda name: name.startswith("weight_hh"), whole
    for layer in range(1, config.num_layers):
        cause = f"no gradient passes from layer {layer} to layer {layer - 1}"
        yield cause, lambda name, layer=layer: name.startswith(f"weight_ih_l{layer}"), whole
    for cause, kept in (
        ("the cotangent of h_n is ignored", (True, False, True)),
        ("the cotangent of c_n is ignored", (True, True, False)),
        ("the cotangents of h_n and c_n are ignored", (True, False, False)),
    ):
        yield cause, lambda name: False, kept


@np.errstate(all="ignore")  # Weights may be infinite.
def explain_gradients(ours: Mapping[str, Array], oracle: OracleLSTM, case: Case) -> list[str]:
    """Return the explanation of the wrong gradients of an LSTM, line by line; empty if they are right."""
    truth = oracle.run(case, gradients=True).gradients or {}
    if not _differing(ours, truth):
        return []
    tolerance = EXACT if ours["inputs"].dtype == np.float64 else ROUNDED
    call = oracle.call(case)
    run = call.run()
    for cause, is_cut, kept in _cuts(oracle.config):
        weights = {name: a * (not is_cut(name)) for name, a in call.params.items()}
        d_out, d_h, d_c = (
            case.cotangents[name] * k for name, k in zip(("outputs", "h_n", "c_n"), kept, strict=True)
        )
        found = backward(replace(call, params=weights), run, (d_out, d_h, d_c))
        if not _differing(ours, {name: found[name] for name in truth}, tolerance):
            return [f"the gradients match an LSTM in which {cause}"]
    return wrong_gradients(ours, truth)


def _differing(
    ours: Mapping[str, Array], theirs: Mapping[str, Array], tolerance: float | None = None
) -> list[str]:
    """Return the names of the gradients whose difference exceeds rounding."""
    names = []
    for name in (name for name in theirs if name in ours):
        value = ours[name]
        limit = tolerance or (EXACT if value.dtype == np.float64 else ROUNDED)
        scale = np.max(np.abs(theirs[name]), initial=0.0) or 1.0
        error = np.max(np.abs(np.asarray(value, np.float64) - theirs[name]), initial=0.0)
        if not error <= limit * scale:
            names.append(name)
    return names


def wrong_gradients(ours: Mapping[str, Array], truth: Mapping[str, Array]) -> list[str]:
    """Describe each gradient that is wrong; those with the same error share a line."""
    wrong, lines = _differing(ours, truth), []
    if {"h_0", "c_0"} <= set(wrong) and ours["h_0"].shape == ours["c_0"].shape:
        swapped = {"h_0": ours["c_0"], "c_0": ours["h_0"]}
        if not _differing(swapped, truth):
            lines.append("the gradients of h_0 and c_0 are swapped")
            wrong = [name for name in wrong if name not in swapped]
    names_by_error: dict[str, list[str]] = {}
    for name in wrong:
        error = _describe_error(np.asarray(ours[name], np.float64), truth[name])
        names_by_error.setdefault(error, []).append(name)
    lines += [f"the gradient of {', '.join(names)} {error}" for error, names in names_by_error.items()]
    return lines


def _describe_error(actual: Array, expected: Array) -> str:
    if not actual.any():
        return "is zero, as after stop_gradient"
    if not np.isfinite(actual).all():
        return "is not finite"
    factor = float(np.vdot(actual, expected) / (np.vdot(expected, expected) or 1.0))
    if np.max(np.abs(actual - factor * expected)) <= 1e-4 * np.max(np.abs(actual)):
        return f"is {format_number(factor)} times the correct gradient"
    return "is wrong"
