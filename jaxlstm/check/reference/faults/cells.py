"""Faults of the cell: wrong activations, missing gates, and a misplaced projection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxlstm.check.reference.faults.fault import Fault, OracleCall
from jaxlstm.check.reference.oracle import Equations, Step, Weights

Array = np.ndarray


CLIPS = (1.0, 3.0)
"""Bounds of a clipped c in the catalogue; the diagnosis adds the bound that the results show."""


def cell_with(
    eq: Equations,
    w: Weights,
    x: Array,
    h: Array,
    c: Array,
    *,
    g: Callable[[Equations, Array], Array] = lambda eq, z: eq.tanh(z),
    out: Callable[[Equations, Array], Array] = lambda eq, c: eq.tanh(c),
    gates: Callable[[Array, Array, Array], tuple[Array, Array, Array]] = lambda i, f, o: (i, f, o),
    out_from_old_c: bool = False,
    stored_c: Callable[[Array], Array] = lambda c: c,
    project: str = "",
) -> Step:
    """Compute a step with some of the oracle's formulas replaced."""
    z = eq.product(x, w["weight_ih"]) + eq.product(h, w["weight_hh"])
    if "bias_ih" in w:
        z = z + w["bias_ih"] + w["bias_hh"]
    z_i, z_f, z_g, z_o = np.split(z, 4, axis=-1)
    i, f, o = gates(eq.sigmoid(z_i), eq.sigmoid(z_f), eq.sigmoid(z_o))
    candidate = g(eq, z_g)
    c_next = stored_c(f * c + i * candidate)
    h_next = o * out(eq, c if out_from_old_c else c_next)
    if "weight_hr" in w:
        if project == "cut":
            h_next = h_next[:, : len(w["weight_hr"])]
        elif project == "first":
            h_next = eq.tanh(eq.product(o * c_next, w["weight_hr"]))
        else:
            h_next = eq.product(h_next, w["weight_hr"])
    return Step(i, f, candidate, o, c_next, h_next)


def clipped_c(bound: float) -> Fault:
    """Return the fault of a cell that clips c."""
    return _formula(f"c is clipped to [-{bound:g}, {bound:g}]", stored_c=lambda c: np.clip(c, -bound, bound))


def _equation(name: str, replacement: str, function: Callable[[Array], Array]) -> Fault:
    cause = f"{name} is {replacement}"
    return Fault(cause, lambda call: call.with_equations(**{name: function}), name)


def _formula(cause: str, group: str = "formula", needs: str = "", **parts: Any) -> Fault:
    def cell(eq: Equations, w: Weights, x: Array, h: Array, c: Array) -> Step:
        return cell_with(eq, w, x, h, c, **parts)

    return Fault(cause, lambda call: call.with_equations(cell=cell), group, needs)


def _swap_state(call: OracleCall) -> OracleCall:
    inner = call.equations.cell
    return call.with_equations(cell=lambda eq, w, x, h, c: inner(eq, w, x, c, h))


def _return_swapped(call: OracleCall) -> OracleCall:
    def cell(eq: Equations, w: Weights, x: Array, h: Array, c: Array) -> Step:
        step = call.equations.cell(eq, w, x, h, c)
        return step._replace(h=step.c, c=step.h)

    return call.with_equations(cell=cell)


def _relu(z: Array) -> Array:
    return np.maximum(z, 0)


FAULTS = (
    _equation(
        "sigmoid", "the hard one, clip(0.2 z + 0.5) (as in old Keras)", lambda z: np.clip(0.2 * z + 0.5, 0, 1)
    ),
    _equation("sigmoid", "the hard one, clip(z / 6 + 0.5)", lambda z: np.clip(1 / 6 * z + 0.5, 0, 1)),
    _equation("sigmoid", "tanh", np.tanh),
    _equation("tanh", "relu", _relu),
    _equation("tanh", "the hard one, clip(z, -1, 1)", lambda z: np.clip(z, -1, 1)),
    _formula("the candidate g goes through sigmoid", g=lambda eq, z: eq.sigmoid(z)),
    _formula("the candidate g goes through relu", g=lambda eq, z: _relu(z)),
    _formula("the candidate g goes through no tanh", g=lambda eq, z: z),
    _formula("c goes through no tanh on its way to h", out=lambda eq, c: c),
    _formula("c goes through relu on its way to h", out=lambda eq, c: _relu(c)),
    _formula("c goes through sigmoid on its way to h", out=lambda eq, c: eq.sigmoid(c)),
    _formula("the forget gate is 1 - i", gates=lambda i, f, o: (i, 1 - i, o)),
    _formula("the input gate is 1 - f", gates=lambda i, f, o: (1 - f, f, o)),
    _formula("the forget gate is missing", gates=lambda i, f, o: (i, np.ones_like(f), o)),
    _formula("the input gate is missing", gates=lambda i, f, o: (np.ones_like(i), f, o)),
    _formula("the output gate is missing", gates=lambda i, f, o: (i, f, np.ones_like(o))),
    Fault("h and c are swapped at every step", _swap_state, "formula", "not-projected"),
    Fault("every step returns (c, h) instead of (h, c)", _return_swapped, "formula", "not-projected"),
    Fault(
        "every step takes and returns (c, h) (as in Flax) instead of (h, c)",
        lambda call: _return_swapped(_swap_state(call)),
        "formula",
        "not-projected",
    ),
    _formula("h is computed from the c before the step", out_from_old_c=True),
    *map(clipped_c, CLIPS),
    _formula("tanh comes after the projection", "projection", "projected", project="first"),
    _formula("weight_hr is ignored and h is cut to proj_size", "projection", "projected", project="cut"),
)
