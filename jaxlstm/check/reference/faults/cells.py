"""Faults of the cell: wrong activations, a misplaced projection, and too few bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import jax.numpy as jnp
import numpy as np

from jaxlstm.check.reference.faults.fault import Change, Fault, equations
from jaxlstm.check.reference.oracle import Equations, OracleCall, Step, Weights

Array = np.ndarray
Round = Callable[[Array], Array]


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


_ACTIVATIONS = (
    ("sigmoid", "the hard one, clip(0.2 z + 0.5) (as in old Keras)", lambda z: np.clip(0.2 * z + 0.5, 0, 1)),
    ("sigmoid", "the hard one, clip(z / 6 + 0.5)", lambda z: np.clip(1 / 6 * z + 0.5, 0, 1)),
    ("tanh", "relu", _relu),
)

_FORMULAS: dict[str, Change] = {
    "the candidate g goes through sigmoid": equations(candidate=lambda eq, z: eq.sigmoid(z)),
    "the candidate g goes through no tanh": equations(candidate=lambda eq, z: z),
    "c goes through no tanh on its way to h": equations(squashed=lambda eq, c: c),
}


_SWAPS: dict[str, Change] = {
    "h and c are swapped at every step": _swap_state,
    "every step returns (c, h) instead of (h, c)": _return_swapped,
    "every step takes and returns (c, h) (as in Flax) instead of (h, c)": (
        lambda call: _return_swapped(_swap_state(call))
    ),
}


def tf32(a: Array) -> Array:
    """Round to the 10 bits of mantissa of TF32, ties to even."""
    bits = np.asarray(a, np.float32).view(np.uint32).astype(np.uint64)
    bits += 0x0FFF + ((bits >> 13) & 1)
    return (bits & 0xFFFFE000).astype(np.uint32).view(np.float32).astype(np.float64)


def _round_products(round_: Round) -> Change:
    def apply(call: OracleCall) -> OracleCall:
        inner = call.equations.product
        return call.with_equations(product=lambda x, w: inner(round_(x), round_(w)))

    return apply


def _round_states(round_h: Round, round_c: Round) -> Change:
    def apply(call: OracleCall) -> OracleCall:
        inner = call.equations.cell

        def cell(eq: Equations, w: Weights, x: Array, h: Array, c: Array) -> Step:
            step = inner(eq, w, x, round_h(h), round_c(c))
            return step._replace(h=round_h(step.h), c=round_c(step.c))

        return call.with_equations(cell=cell)

    return apply


def _half(name: str) -> dict[str, Change]:
    """Return the faults of a half precision, by cause."""
    dtype = jnp.dtype(name)

    def round_(a: Array) -> Array:
        return a.astype(dtype).astype(np.float64)

    def weights(call: OracleCall) -> OracleCall:
        return replace(call, params={name: round_(a) for name, a in call.params.items()})

    def inputs(call: OracleCall) -> OracleCall:
        return replace(call, inputs=round_(call.inputs))

    states, only_c = _round_states(round_, round_), _round_states(lambda h: h, round_)
    return {
        f"the matrix products take {name} operands": _round_products(round_),
        f"the weights are rounded to {name}": weights,
        f"h and c are kept in {name}": states,
        f"c is kept in {name}": only_c,
        f"weights, inputs and states are in {name}": lambda call: states(inputs(weights(call))),
    }


_CAUSES = {"the matrix products run in TF32": _round_products(tf32), **_half("bfloat16"), **_half("float16")}

FAULTS = (
    *(Fault(f"{name} is {what}", equations(**{name: how}), name) for name, what, how in _ACTIVATIONS),
    *(Fault(cause, change, "formula") for cause, change in _FORMULAS.items()),
    *(Fault(cause, change, "formula", "not-projected") for cause, change in _SWAPS.items()),
    Fault(
        "tanh comes after the projection",
        equations(squashed=lambda eq, c: c, projection=lambda eq, h, weight: eq.tanh(eq.product(h, weight))),
        "projection",
        "projected",
    ),
)
PRECISION = tuple(Fault(cause, apply, "precision", rounding=True) for cause, apply in _CAUSES.items())
