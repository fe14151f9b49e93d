"""The diagnosis of a model that failed: the cause, and the first layer that differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jaxlstm._shared.table import format_number
from jaxlstm.check.exceptions import PORT_EXCEPTIONS, describe
from jaxlstm.check.model.channels import channels_last_advice
from jaxlstm.check.model.explain import AGREEMENT, IMPROVEMENT, Evidence, ModelSearch, output_distance
from jaxlstm.check.model.layers import EQUAL, LayerRecord, compare_layers, distance
from jaxlstm.check.model.ours import OurRunner
from jaxlstm.check.model.parameters import foreign_weights, wrong_gradients
from jaxlstm.check.model.program_model import ProgramModel
from jaxlstm.check.model.results import ModelCase
from jaxlstm.check.model.verification import ModelVerification
from jaxlstm.check.reference.torch_layers import record_torch_layers
from jaxlstm.check.report.layers import LayerDifference

Array = np.ndarray

OWN_ERRORS = 16.0
"""A layer is imprecise if its error exceeds torch's error in the same dtype by this factor."""


@dataclass(frozen=True)
class ModelDiagnosis:
    """The explanations, the most likely first, and the layers of both models."""

    lines: tuple[str, ...] = ()
    layers: tuple[LayerDifference, ...] = ()


def diagnose_model(verification: ModelVerification, failed: set[str], seconds: float) -> ModelDiagnosis:
    """Explain the failed items. ``seconds`` is the time for the search of causes."""
    wrong = {"runs", "shape and dtype", "NaN mask", "float64 semantics against torch"} & failed
    # Wrong values show on the first case that failed; rounding errors are measured over all cases.
    case = (verification.first_failure if wrong else None) or verification.example
    imprecise = any(name.startswith(("RMS error of results", "within")) for name in failed)
    if not wrong and not imprecise:
        return ModelDiagnosis(tuple(wrong_gradients(verification)))
    dtype = np.float64 if wrong and not verification.float64_refusal else verification.theirs.dtype
    if isinstance(verification.ours, ProgramModel):
        nodes = _diagnose_nodes(verification, verification.ours, case)
        if not wrong or any(not node.ok for node in nodes.layers):
            return nodes
    else:
        nodes = ModelDiagnosis()
    ours = _layers(verification, case, dtype)
    theirs = record_torch_layers(verification.theirs, case, np.float64)
    limits = _limits(verification, case, theirs, dtype)
    layers = compare_layers(ours, theirs, verification.names, verification.pairing, limits)
    # Without a run in float64, a large error may have any cause.
    wrong_values = bool(wrong) or not verification.evidence
    settings = list(_training_mode(verification)) if wrong_values else []
    if "runs" in wrong:
        settings += channels_last_advice(verification)
    causes = settings or list(_causes(verification, case, ours, dtype, wrong_values, seconds))
    causes += foreign_weights(verification)
    if "runs" in wrong:
        without_cause = "the model raised an exception: see the item runs"
    else:
        without_cause = "no known fault of the operations of torch's module explains the results"
    lines = [*(causes or [without_cause]), *_other_case(verification, case), *_location(layers), *nodes.lines]
    return ModelDiagnosis(tuple(lines), tuple(layers))


def _diagnose_nodes(
    verification: ModelVerification, program: ProgramModel, case: ModelCase
) -> ModelDiagnosis:
    """Name the first node of a program that differs from torch's operator on the same graph."""
    try:
        nodes = program.nodes(case, verification.precision)
    except PORT_EXCEPTIONS as error:
        return ModelDiagnosis((f"the nodes cannot be compared: {describe(error)}",))
    wrong = next((node for node in nodes if not node.ok), None)
    if wrong is None:
        line = (
            f"each of the {len(nodes)} nodes compared equals torch's operator in float64: the graph differs "
            f"from {verification.theirs.name}, or accuracy is lost only in the working dtype"
        )
    else:
        line = f"first differs at node {wrong.theirs}, {wrong.kind}: {_size(wrong)}"
    return ModelDiagnosis((line,), tuple(nodes))


def _size(layer: LayerDifference) -> str:
    return layer.difference + (" times the largest element" if np.isfinite(layer.outputs) else "")


def _layers(
    verification: ModelVerification, case: ModelCase, dtype: type[np.floating] | np.dtype
) -> list[LayerRecord]:
    """Return the layers of the model on a case, or nothing if they cannot be recorded."""
    try:
        return verification.ours.layers(case, dtype, verification.precision)
    except PORT_EXCEPTIONS:  # A model may depend on being called as a whole.
        return []


def _limits(
    verification: ModelVerification, case: ModelCase, theirs: Sequence[LayerRecord], dtype: Any
) -> dict[int, float]:
    """Return by position the distance within which a layer in the working dtype is precise enough."""
    if np.dtype(dtype) == np.float64:
        limit = AGREEMENT[_resolution(verification, dtype)]
        return dict.fromkeys(range(len(theirs)), max(limit, EQUAL) if verification.casts else EQUAL)
    same = record_torch_layers(verification.theirs, case, dtype)
    pairs = enumerate(zip(same, theirs, strict=True))
    return {k: OWN_ERRORS * distance(a.outputs, b.outputs) for k, (a, b) in pairs}


def _resolution(verification: ModelVerification, dtype: Any) -> str:
    """Return the name of the dtype to whose precision runs in ``dtype`` agree."""
    return "float32" if verification.casts else np.dtype(dtype).name


def _training_mode(verification: ModelVerification) -> Iterator[str]:
    """Test if the model equals torch in evaluation mode."""
    evaluation = verification.ours.evaluation()
    if evaluation is None or not verification.evidence:
        return
    case, _ = verification.evidence[0]
    runner = OurRunner(evaluation, case, np.float64, cast_model=True, precision=verification.precision)
    try:
        ours = runner.run(case)
    except PORT_EXCEPTIONS:
        return
    found = output_distance(ours.outputs, verification.truths[case.name].outputs)
    before = output_distance(verification.evidence[0][1].outputs, verification.truths[case.name].outputs)
    if found <= min(AGREEMENT[_resolution(verification, np.float64)], before / IMPROVEMENT):
        yield (
            f"the model is in training mode: after model.eval() it matches {verification.theirs.name}, to "
            f"within {format_number(found)}"
        )


def _other_case(verification: ModelVerification, case: ModelCase) -> Iterator[str]:
    """Name the case that differs if the example does not."""
    if case.name != verification.example.name:
        names = f"{verification.ours.name} equals {verification.theirs.name}"
        yield f"{names} on the example; with {case.name} it does not"


def _causes(
    verification: ModelVerification,
    first: ModelCase,
    layers: Sequence[LayerRecord],
    dtype: Any,
    wrong: bool,
    seconds: float,
) -> Iterator[str]:
    """Search for the faults that explain the results. ``layers`` were recorded on the case ``first``."""
    runs = verification.evidence if np.dtype(dtype) == np.float64 else verification.working_evidence
    evidence = [Evidence(case, results.outputs) for case, results in runs if _is_finite(results.outputs)]
    evidence.sort(key=lambda entry: entry.case.name != first.name)
    if not evidence or evidence[0].case.name != first.name:
        evidence = [Evidence(first, None), *evidence]
    evidence[0] = replace(evidence[0], layers=layers)
    search = ModelSearch(
        verification.theirs,
        evidence,
        verification.names,
        verification.pairing,
        dtype=dtype,
        agreement=AGREEMENT[_resolution(verification, dtype)],
        seconds=seconds,
    )
    found = search.single(rounding=not wrong) or ([] if not wrong else search.several())
    yield from found
    if search.timed_out and not found:
        yield f"no cause was found in {seconds:g} s; a longer search may find one (argument seconds)"


def _location(layers: Sequence[LayerDifference]) -> Iterator[str]:
    """Name the first layer that differs, and the one before it if the fault lies between the two."""
    before = None
    for layer in layers:
        if layer.ok:
            before = layer
            continue
        size = _size(layer)
        if not layer.theirs:
            after = f" after {before.name}" if before else ""
            yield f"the outputs of the layers agree; the results differ{after}: {size}"
        elif layer.inputs <= layer.limit:
            yield f"first differs in {layer.name}, {_with_article(layer.kind)} whose inputs agree: {size}"
        else:
            start = before.name if before else "the arguments"
            yield f"first differs between {start} and {layer.name}, whose inputs already differ: {size}"
        return


def _with_article(kind: str) -> str:
    """Return the class of a layer after "a" or "an", as in "an LSTM"."""
    return f"{'an' if kind.startswith((*'AEIO', 'LSTM', 'RNN')) else 'a'} {kind}"


def _is_finite(outputs: Mapping[str, Array]) -> bool:
    return all(bool(np.isfinite(a.astype(np.float64)).all()) for a in outputs.values())
