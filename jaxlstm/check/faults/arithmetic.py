"""Faults of precision: rounded weights or states, and products in TF32 or bfloat16."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np

from jaxlstm.check.faults.cells import cell_with
from jaxlstm.check.faults.fault import Change, Fault, OracleCall
from jaxlstm.check.reference.oracle import Equations, Step, Weights

Array = np.ndarray
Round = Callable[[Array], Array]
HALF: tuple[tuple[str, Any], ...] = (("bfloat16", ml_dtypes.bfloat16), ("float16", np.float16))


def faults() -> Iterator[Fault]:
    """Yield every fault of precision."""
    yield _fault("the matrix products run in TF32", _round_products(tf32))
    for name, dtype in HALF:
        round_ = _rounder(dtype)
        yield _fault(f"the matrix products take {name} operands", _round_products(round_))
        yield _fault(f"the weights are rounded to {name}", _round_weights(round_))
        yield _fault(f"the inputs are rounded to {name}", _round_inputs(round_))
        yield _fault(f"h and c are kept in {name}", _round_states(round_, round_))
        yield _fault(f"c is kept in {name}", _round_states(lambda h: h, round_))
        yield _fault(f"c is kept in {name}, and h is computed from it", _round_cell_state(round_))
        yield _fault(f"weights, inputs and states are in {name}", _round_everything(round_))


def tf32(a: Array) -> Array:
    """Round to the 10 bits of mantissa of TF32, ties to even."""
    bits = np.asarray(a, np.float32).view(np.uint32).astype(np.uint64)
    bits += 0x0FFF + ((bits >> 13) & 1)
    return (bits & 0xFFFFE000).astype(np.uint32).view(np.float32).astype(np.float64)


def _fault(cause: str, apply: Change) -> Fault:
    return Fault(cause, apply, "precision", rounding=True)


def _rounder(dtype: Any) -> Round:
    return lambda a: a.astype(dtype).astype(np.float64)


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


def _round_everything(round_: Round) -> Change:
    def apply(call: OracleCall) -> OracleCall:
        return _round_states(round_, round_)(_round_inputs(round_)(_round_weights(round_)(call)))

    return apply
