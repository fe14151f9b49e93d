"""Faults of the cell: wrong activations, missing gates, and a misplaced projection."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from jaxlstm.check.faults.fault import (
    Applies,
    Fault,
    OracleCall,
    always,
    is_not_projected,
    is_projected,
)
from jaxlstm.check.reference.oracle import Equations, Step, Weights

Array = np.ndarray


def faults() -> Iterator[Fault]:
    """Yield every fault of the cell."""
    yield from _activations()
    yield from _formulas()


def _hard_sigmoid(slope: float) -> Callable[[Array], Array]:
    return lambda z: np.clip(slope * z + 0.5, 0, 1)


def _relu(z: Array) -> Array:
    return np.maximum(z, 0)


def _activations() -> Iterator[Fault]:
    def fault(name: str, replacement: str, function: Callable[[Array], Array]) -> Fault:
        def apply(call: OracleCall) -> OracleCall:
            return call.with_equations(**{name: function})

        return Fault(f"{name} is {replacement}", apply, name)

    yield fault("sigmoid", "the hard one, clip(0.2 z + 0.5) (as in old Keras)", _hard_sigmoid(0.2))
    yield fault("sigmoid", "the hard one, clip(z / 6 + 0.5)", _hard_sigmoid(1 / 6))
    yield fault("sigmoid", "tanh", np.tanh)
    yield fault("tanh", "relu", _relu)
    yield fault("tanh", "the hard one, clip(z, -1, 1)", lambda z: np.clip(z, -1, 1))


def _formulas() -> Iterator[Fault]:
    def fault(
        cause: str, group: str = "formula", applies: Applies = always, **parts: object
    ) -> Fault:
        def apply(call: OracleCall) -> OracleCall:
            def cell(eq: Equations, w: Weights, x: Array, h: Array, c: Array) -> Step:
                return cell_with(eq, w, x, h, c, **parts)  # type: ignore[arg-type]

            return call.with_equations(cell=cell)

        return Fault(cause, apply, group, applies)

    yield fault("the candidate g goes through sigmoid", g=lambda eq, z: eq.sigmoid(z))
    yield fault("the candidate g goes through relu", g=lambda eq, z: _relu(z))
    yield fault("the candidate g goes through no tanh", g=lambda eq, z: z)
    yield fault("c goes through no tanh on its way to h", out=lambda eq, c: c)
    yield fault("c goes through relu on its way to h", out=lambda eq, c: _relu(c))
    yield fault("c goes through sigmoid on its way to h", out=lambda eq, c: eq.sigmoid(c))
    yield fault("the forget gate is 1 - i", gates=lambda i, f, o: (i, 1 - i, o))
    yield fault("the input gate is 1 - f", gates=lambda i, f, o: (1 - f, f, o))
    yield fault("the forget gate is missing", gates=lambda i, f, o: (i, np.ones_like(f), o))
    yield fault("the input gate is missing", gates=lambda i, f, o: (np.ones_like(i), f, o))
    yield fault("the output gate is missing", gates=lambda i, f, o: (i, f, np.ones_like(o)))
    yield Fault("h and c are swapped at every step", _swap_state, "formula", is_not_projected)
    yield fault("h is computed from the c before the step", out_from_old_c=True)
    yield fault("c is clipped to [-1, 1]", stored_c=lambda c: np.clip(c, -1, 1))
    yield fault("c is clipped to [-3, 3]", stored_c=lambda c: np.clip(c, -3, 3))
    yield fault("tanh comes after the projection", "projection", is_projected, project="first")
    yield fault(
        "weight_hr is ignored and h is cut to proj_size", "projection", is_projected, project="cut"
    )


def _swap_state(call: OracleCall) -> OracleCall:
    inner = call.equations.cell

    def cell(eq: Equations, w: Weights, x: Array, h: Array, c: Array) -> Step:
        return inner(eq, w, x, c, h)

    return call.with_equations(cell=cell)


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
