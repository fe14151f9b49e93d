"""Faults of precision: weights or states rounded, products in TF32 or bfloat16."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np

from jaxlstm.check.faults.cells import cell_with
from jaxlstm.check.faults.fault import Call, Fault
from jaxlstm.check.oracle import Equations, Step, Weights

Array = np.ndarray
HALF: tuple[tuple[str, Any], ...] = (("bfloat16", ml_dtypes.bfloat16), ("float16", np.float16))


def faults() -> Iterator[Fault]:
    """All of them."""
    yield _fault("the matrix products run in TF32", _products(tf32))
    for name, dtype in HALF:
        round_ = _rounder(dtype)
        yield _fault(f"the matrix products take {name} operands", _products(round_))
        yield _fault(f"the weights are rounded to {name}", _weights(round_))
        yield _fault(f"the inputs are rounded to {name}", _inputs(round_))
        yield _fault(f"h and c are kept in {name}", _state(round_, round_))
        yield _fault(f"c is kept in {name}", _state(lambda h: h, round_))
        yield _fault(f"c is kept in {name}, and h is made of it", _cell_state(round_))
        yield _fault(f"weights, inputs and states are in {name}", _everything(round_))


def tf32(a: Array) -> Array:
    """Rounded to the 10 bits of mantissa that TF32 keeps, ties to even."""
    bits = np.asarray(a, np.float32).view(np.uint32).astype(np.uint64)
    bits += 0x0FFF + ((bits >> 13) & 1)
    return (bits & 0xFFFFE000).astype(np.uint32).view(np.float32).astype(np.float64)


def _fault(cause: str, apply: Callable[[Call], Call]) -> Fault:
    return Fault(cause, apply, "precision", rounding=True)


def _rounder(dtype: Any) -> Callable[[Array], Array]:
    return lambda a: a.astype(dtype).astype(np.float64)


def _products(round_: Callable[[Array], Array]) -> Callable[[Call], Call]:
    def apply(call: Call) -> Call:
        inner = call.equations.product
        return call.with_equations(product=lambda x, w: inner(round_(x), round_(w)))

    return apply


def _weights(round_: Callable[[Array], Array]) -> Callable[[Call], Call]:
    return lambda call: replace(call, params={name: round_(a) for name, a in call.params.items()})


def _inputs(round_: Callable[[Array], Array]) -> Callable[[Call], Call]:
    return lambda call: replace(call, inputs=round_(call.inputs))


def _state(
    round_h: Callable[[Array], Array], round_c: Callable[[Array], Array]
) -> Callable[[Call], Call]:
    def apply(call: Call) -> Call:
        inner = call.equations.cell

        def cell(eq: Equations, w: Weights, x: Array, h: Array, c: Array) -> Step:
            step = inner(eq, w, x, round_h(h), round_c(c))
            return step._replace(h=round_h(step.h), c=round_c(step.c))

        return call.with_equations(cell=cell)

    return apply


def _cell_state(round_: Callable[[Array], Array]) -> Callable[[Call], Call]:
    def cell(eq: Equations, w: Weights, x: Array, h: Array, c: Array) -> Step:
        return cell_with(eq, w, x, h, round_(c), kept=round_)

    return lambda call: call.with_equations(cell=cell)


def _everything(round_: Callable[[Array], Array]) -> Callable[[Call], Call]:
    def apply(call: Call) -> Call:
        return _state(round_, round_)(_inputs(round_)(_weights(round_)(call)))

    return apply
