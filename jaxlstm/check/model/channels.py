"""Images and sequences with channels first, given to a model that takes them with channels last."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from jaxlstm.check.exceptions import PORT_EXCEPTIONS
from jaxlstm.check.model.explain import AGREEMENT, output_distance
from jaxlstm.check.model.ours import FunctionModel, OurRunner
from jaxlstm.check.model.results import ModelCase, is_floating
from jaxlstm.check.model.verification import ModelVerification


def channels_last_advice(verification: ModelVerification) -> Iterator[str]:
    """Test if a model that raised runs with the channels of its arguments moved to the last axis."""
    case = _channels_last(verification.example)
    moved = [name for name, a in case.arrays_by_name().items() if a.ndim > 2 and is_floating(a)]
    if not moved:
        return
    example, precision = verification.example, verification.precision
    runner = OurRunner(
        verification.ours, example, verification.theirs.dtype, cast_model=False, precision=precision
    )
    try:
        ours = runner.run(case)
    except PORT_EXCEPTIONS:
        return
    theirs = verification.theirs.run(example, verification.theirs.dtype)
    near = output_distance(ours.outputs, theirs.outputs) <= AGREEMENT[verification.theirs.dtype.name]
    verb = f"matches {verification.theirs.name}" if near else "runs"
    axes = _axes(case.arrays_by_name()[moved[0]].ndim)
    how = (
        f"transpose them in the function, x.transpose{axes}"
        if isinstance(verification.ours, FunctionModel)
        else f"pass call=lambda model, x: model(x.transpose{axes})"
    )
    after = "" if near else "; if its outputs have channels last too, transpose them back"
    yield f"the model {verb} if the channels of {', '.join(moved)} are the last axis: {how}{after}"


def _channels_last(case: ModelCase) -> ModelCase:
    return case.map(lambda a: np.moveaxis(a, 1, -1) if a.ndim > 2 and is_floating(a) else a)


def _axes(ndim: int) -> tuple[int, ...]:
    return (0, *range(2, ndim), 1)
