"""Advice to change the mode of a model, the layout of its arguments, or its weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import jax.numpy as jnp
import numpy as np

from jaxlstm._shared.table import format_number
from jaxlstm.check.cases.results import is_floating
from jaxlstm.check.diagnosis.layers import output_distance
from jaxlstm.check.diagnosis.search import AGREEMENT, IMPROVEMENT
from jaxlstm.check.exceptions import PORT_EXCEPTIONS
from jaxlstm.check.reference.torch_model import TorchModel
from jaxlstm.check.subjects.function import FunctionModel, ModelRunner
from jaxlstm.check.subjects.model import ModelSubject
from jaxlstm.check.verification import Evidence


def evaluation_advice(
    subject: ModelSubject, theirs: TorchModel, evidence: Evidence, agreement: float
) -> Iterator[str]:
    """Test if the model equals torch in evaluation mode, on float64 evidence."""
    evaluation = subject.model.evaluation()
    if evaluation is None:
        return
    case = evidence.case
    runner = ModelRunner(evaluation, case, np.float64, cast_model=True, precision=subject.precision)
    try:
        ours = runner.run(case)
    except PORT_EXCEPTIONS:
        return
    found, before = (output_distance(r.outputs, evidence.truth.outputs) for r in (ours, evidence.results))
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


Array = np.ndarray


def foreign_weights(subject: ModelSubject, theirs: Mapping[str, Array]) -> Iterator[str]:
    """Name the parameters whose values torch does not have, by the dtype to which torch's were rounded."""
    ours = subject.working.call.params
    foreign: dict[str, list[str]] = {}
    for name in subject.pairing.unpaired:
        value = ours[name]
        like = [p for p in theirs.values() if p.size == value.size]
        halves = (d for d in ("bfloat16", "float16") if any(_equal_in(d, value, p) for p in like))
        foreign.setdefault(next(halves, ""), []).append(name)
    if len(foreign.get("", ())) == len(ours) > 1:
        yield "no parameter of the model has torch's values: fill it with jaxlstm.load_state_dict first"
        return
    for half, found in foreign.items():
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        hint = f"; they equal torch's rounded to {half}" if half else ""
        yield (
            f"the values of {', '.join(found[:3])}{more} are not a re-layout of any parameter of torch{hint}"
        )


def _equal_in(dtype: str, value: Array, other: Array) -> bool:
    rounded = [np.sort(a.astype(jnp.dtype(dtype)).astype(np.float32), axis=None) for a in (value, other)]
    return bool(np.array_equal(rounded[0], rounded[1]))
