"""Naming a fault of the derivative, for subjects whose results are right and whose gradients are wrong.

For an LSTM, the derivative of the oracle is taken again with a part of it cut, and compared with the port's
gradients.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from jaxlstm._shared.table import format_number
from jaxlstm.check.cases.case import Case
from jaxlstm.check.reference.oracle_lstm import OracleLSTM, backward
from jaxlstm.layer.config import LSTMConfig

Array = np.ndarray

EXACT, ROUNDED = 1e-8, 1e-3
"""Largest error relative to the largest element of a gradient, in float64 and in other dtypes."""


def _cuts(config: LSTMConfig) -> Iterator[tuple[str, str]]:
    """Yield the parts of the derivative that may be left out.

    Each is a description, and a pattern of the weights and cotangents through which nothing passes back.
    """
    if config.bidirectional:
        for kept, cut in (("forward", r"weight_ih_l\d+_reverse"), ("reverse", r"weight_ih_l\d+")):
            yield f"the gradient of a layer's inputs includes only the {kept} direction", cut
    yield "no gradient passes through h from step to step", "weight_hh.*"
    for layer in range(1, config.num_layers):
        yield f"no gradient passes from layer {layer} to layer {layer - 1}", f"weight_ih_l{layer}(_reverse)?"
    yield "the cotangent of h_n is ignored", "h_n"
    yield "the cotangent of c_n is ignored", "c_n"
    yield "the cotangents of h_n and c_n are ignored", "[hc]_n"


@np.errstate(all="ignore")  # Weights may be infinite.
def explain_gradients(ours: Mapping[str, Array], oracle: OracleLSTM, case: Case) -> list[str]:
    """Return the explanation of the wrong gradients of an LSTM, line by line; empty if they are right."""
    truth = oracle.run(case, gradients=True).gradients or {}
    if not _differing(ours, truth):
        return []
    call = oracle.call(case)
    run = call.run()
    for cause, pattern in _cuts(oracle.config):
        weights, cotangents = (
            {name: a * (not re.fullmatch(pattern, name)) for name, a in arrays.items()}
            for arrays in (call.params, case.cotangents)
        )
        d_out, d_h, d_c = (cotangents[name] for name in ("outputs", "h_n", "c_n"))
        found = backward(replace(call, params=weights), run, (d_out, d_h, d_c))
        if not _differing(ours, {name: found[name] for name in truth}):
            return [f"the gradients match an LSTM in which {cause}"]
    return wrong_gradients(ours, truth)


def _differing(ours: Mapping[str, Array], theirs: Mapping[str, Array]) -> list[str]:
    """Return the names of the gradients whose difference exceeds rounding."""

    def is_near(name: str) -> bool:
        limit = EXACT if ours[name].dtype == np.float64 else ROUNDED
        scale = np.max(np.abs(theirs[name]), initial=0.0) or 1.0
        return np.max(np.abs(ours[name].astype(np.float64) - theirs[name]), initial=0.0) <= limit * scale

    return [name for name in theirs if name in ours and not is_near(name)]


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
