"""The catalogue of faults by operation. The modules imported here register the faults of their operations."""

from __future__ import annotations

from collections.abc import Iterator

from jaxlstm.check.reference.torch_faults import (
    attention,
    elementwise,
    operation,
    precision,
    recurrent,
    weights,
)
from jaxlstm.check.reference.torch_faults.operation import Operation, Variant

_MODULES = (attention, elementwise, recurrent, weights)
KNOWN = operation.known_operations()
"""The names of the operations that have faults."""


def variants(operation_: Operation, *, rounding: bool = False) -> Iterator[Variant]:
    """Yield the faults of an operation; if ``rounding`` is true, its faults of precision."""
    if not rounding:
        yield from operation.variants(operation_)
    elif operation_.name in weights.PRODUCTS:
        yield from precision.product(operation_)
