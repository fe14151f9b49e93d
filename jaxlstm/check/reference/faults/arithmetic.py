"""Faults of precision: rounded weights or states, and products in TF32 or bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import jax.numpy as jnp
import numpy as np

from jaxlstm.check.reference.faults.cells import cell_with
from jaxlstm.check.reference.faults.fault import Change, Fault, OracleCall
from jaxlstm.check.reference.oracle import Equations, Step, Weights

Array = np.ndarray
Round = Callable[[Array], Array]


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


def _round_weights(round_: Round) -> Change:
    return lambda call: replace(call, params={name: round_(a) for name, a in call.params.items()})


def _round_inputs(round_: Round) -> Change:
    return lambda call: replace(call, inputs=round_(call.inputs))


def _round_states(round_h: Round, round_c: Round) -> Change:
    def apply(call: OracleCall) -> OracleCall:
        inner = call.equations.cell

        def cell(eq: Equations, w: Weights, x: Array, h: Array, c: Array) -> Step:
            step = inner(eq, w, x, round_h(h), round_c(c))
            return step._replace(h=round_h(step.h), c=round_c(step.c))

        return call.with_equations(cell=cell)

    return apply


def _round_cell_state(round_: Round) -> Change:
    def cell(eq: Equations, w: Weights, x: Array, h: Array, c: Array) -> Step:
        return cell_with(eq, w, x, h, round_(c), stored_c=round_)

    return lambda call: call.with_equations(cell=cell)


def _half(name: str) -> dict[str, Change]:
    """Return the faults of a half precision, by cause."""
    dtype = jnp.dtype(name)

    def round_(a: Array) -> Array:
        return a.astype(dtype).astype(np.float64)

    weights, inputs = _round_weights(round_), _round_inputs(round_)
    states = _round_states(round_, round_)
    return {
        f"the matrix products take {name} operands": _round_products(round_),
        f"the weights are rounded to {name}": weights,
        f"the inputs are rounded to {name}": inputs,
        f"h and c are kept in {name}": states,
        f"c is kept in {name}": _round_states(lambda h: h, round_),
        f"c is kept in {name}, and h is computed from it": _round_cell_state(round_),
        f"weights, inputs and states are in {name}": lambda call: states(inputs(weights(call))),
    }


_CAUSES = {"the matrix products run in TF32": _round_products(tf32), **_half("bfloat16"), **_half("float16")}

FAULTS = tuple(Fault(cause, apply, "precision", rounding=True) for cause, apply in _CAUSES.items())
