"""Faults of the cell: other activations, gates that are missing, the projection in the wrong place."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from jaxlstm.check.faults.fault import Call, Fault, always
from jaxlstm.check.oracle import Equations, Step, Weights
from jaxlstm.config import LSTMConfig

Array = np.ndarray


def faults() -> Iterator[Fault]:
    """All of them."""
    yield from _activations()
    yield from _formulas()


def _projected(config: LSTMConfig) -> bool:
    return config.proj_size > 0


def _hard(slope: float) -> Callable[[Array], Array]:
    return lambda z: np.clip(slope * z + 0.5, 0, 1)


def _relu(z: Array) -> Array:
    return np.maximum(z, 0)


def _activations() -> Iterator[Fault]:
    def sigmoid(cause: str, function: Callable[[Array], Array]) -> Fault:
        return Fault(cause, lambda call: call.with_equations(sigmoid=function), "sigmoid")

    yield sigmoid("sigmoid is the hard one, clip(0.2 z + 0.5) (as in old Keras)", _hard(0.2))
    yield sigmoid("sigmoid is the hard one, clip(z / 6 + 0.5)", _hard(1 / 6))
    yield sigmoid("sigmoid is tanh", np.tanh)
    yield Fault("tanh is relu", lambda call: call.with_equations(tanh=_relu), "tanh")
    yield Fault(
        "tanh is the hard one, clip(z, -1, 1)",
        lambda call: call.with_equations(tanh=lambda z: np.clip(z, -1, 1)),
        "tanh",
    )


def _formulas() -> Iterator[Fault]:
    def fault(
        cause: str,
        group: str = "formula",
        applies: Callable[[LSTMConfig], bool] = always,
        **parts: object,
    ) -> Fault:
        def apply(call: Call) -> Call:
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
    yield fault("the forget gate is left out", gates=lambda i, f, o: (i, np.ones_like(f), o))
    yield fault("the input gate is left out", gates=lambda i, f, o: (np.ones_like(i), f, o))
    yield fault("the output gate is left out", gates=lambda i, f, o: (i, f, np.ones_like(o)))
    yield Fault("h and c are swapped at every step", _swapped, "formula", lambda c: not c.proj_size)
    yield fault("h is made of the c before the step", before=True)
    yield fault("c is clipped to [-1, 1]", kept=lambda c: np.clip(c, -1, 1))
    yield fault("c is clipped to [-3, 3]", kept=lambda c: np.clip(c, -3, 3))
    yield fault("tanh comes after the projection", "projection", _projected, project="first")
    yield fault(
        "weight_hr is ignored, and h cut to proj_size", "projection", _projected, project="cut"
    )


def _swapped(call: Call) -> Call:
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
    before: bool = False,
    kept: Callable[[Array], Array] = lambda c: c,
    project: str = "",
) -> Step:
    """A step of the oracle's with one of its formulas exchanged."""
    z = eq.product(x, w["weight_ih"]) + eq.product(h, w["weight_hh"])
    if "bias_ih" in w:
        z = z + w["bias_ih"] + w["bias_hh"]
    z_i, z_f, z_g, z_o = np.split(z, 4, axis=-1)
    i, f, o = gates(eq.sigmoid(z_i), eq.sigmoid(z_f), eq.sigmoid(z_o))
    candidate = g(eq, z_g)
    c_next = kept(f * c + i * candidate)
    h_next = o * out(eq, c if before else c_next)
    if "weight_hr" in w:
        if project == "cut":
            h_next = h_next[:, : len(w["weight_hr"])]
        elif project == "first":
            h_next = eq.tanh(eq.product(o * c_next, w["weight_hr"]))
        else:
            h_next = eq.product(h_next, w["weight_hr"])
    return Step(i, f, candidate, o, c_next, h_next)
