"""Advice that a run with other settings confirms: evaluation mode, and channels last."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from jaxlstm._shared.table import format_number
from jaxlstm.check.cases.results import is_floating
from jaxlstm.check.diagnosis.faulted_module import output_distance
from jaxlstm.check.diagnosis.search import AGREEMENT, IMPROVEMENT
from jaxlstm.check.exceptions import PORT_EXCEPTIONS
from jaxlstm.check.reference.torch_model import TorchModel
from jaxlstm.check.subjects.function import FunctionModel
from jaxlstm.check.subjects.model import ModelSubject
from jaxlstm.check.subjects.model_runner import ModelRunner
from jaxlstm.check.verification import Evidence


def evaluation_advice(
    subject: ModelSubject, theirs: TorchModel, evidence: Evidence, agreement: float
) -> Iterator[str]:
    """Test if the model equals torch in evaluation mode, on float64 evidence."""
    evaluation = subject.model.evaluation()
    if evaluation is None:
        return
    case, results, truth = evidence
    runner = ModelRunner(evaluation, case, np.float64, cast_model=True, precision=subject.precision)
    try:
        ours = runner.run(case)
    except PORT_EXCEPTIONS:
        return
    found, before = (output_distance(r.outputs, truth.outputs) for r in (ours, results))
    if found <= min(agreement, before / IMPROVEMENT):
        yield (
            f"the model is in training mode: after model.eval() it matches {theirs.module_name}, to within "
            f"{format_number(found)}"
        )


def channels_last_advice(subject: ModelSubject, theirs: TorchModel) -> Iterator[str]:
    """Test if a model that raised runs with the channels of its arguments moved to the last axis."""
    case = subject.example.map(lambda a: np.moveaxis(a, 1, -1) if a.ndim > 2 else a)
    moved = [name for name, a in case.arrays.items() if a.ndim > 2 and is_floating(a)]
    if not moved:
        return
    runner = ModelRunner(subject.model, case, theirs.dtype, cast_model=False, precision=subject.precision)
    try:
        ours = runner.run(case)
    except PORT_EXCEPTIONS:
        return
    expected = theirs.run(subject.example, theirs.dtype)
    near = output_distance(ours.outputs, expected.outputs) <= AGREEMENT[theirs.dtype.name]
    verb = f"matches {theirs.module_name}" if near else "runs"
    axes = (0, *range(2, case.arrays[moved[0]].ndim), 1)
    how = (
        f"transpose them in the function, x.transpose{axes}"
        if isinstance(subject.model, FunctionModel)
        else f"pass call=lambda model, x: model(x.transpose{axes})"
    )
    after = "" if near else "; if its outputs have channels last too, transpose them back"
    yield f"the model {verb} if the channels of {', '.join(moved)} are the last axis: {how}{after}"
