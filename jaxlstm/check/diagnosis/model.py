"""The diagnosis of a model: the cause, advice about its settings, and the first layer that differs."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from jaxlstm._shared.table import format_number
from jaxlstm.check.cases.case import Array, Case, LayerRecord, Results, is_floating
from jaxlstm.check.criteria.difference import AGREEMENT, EQUAL, distance, shape_of
from jaxlstm.check.diagnosis.layers import FailedCase, FaultedModule, compare_layers, output_distance
from jaxlstm.check.diagnosis.locate import wrong_gradients
from jaxlstm.check.diagnosis.search import Deadline, Diagnosis
from jaxlstm.check.exceptions import PORT_EXCEPTIONS, describe
from jaxlstm.check.reference.jax_model import FunctionModel, JaxModel, ModelRunner
from jaxlstm.check.reference.jax_runs import jax_settings, to_numpy
from jaxlstm.check.reference.program import ProgramModel, ProgramReference
from jaxlstm.check.reference.torch_faults.planted import run_planted
from jaxlstm.check.reference.torch_layers import run_graph
from jaxlstm.check.reference.torch_model import TorchModel
from jaxlstm.check.report.item import Item, LayerDifference
from jaxlstm.check.subjects.model import ModelSubject
from jaxlstm.check.verification import Evidence, Verification
from jaxlstm.programs.graph import Node

OWN_ERRORS = 16.0
"""A layer is imprecise if its error exceeds torch's error in the same dtype by this factor."""

ROUNDED_SUMS = 1e-6
"""The distance of right layers whose biases are float32 sums of torch's."""


def diagnose_model(
    verification: Verification, subject: ModelSubject, failures: Sequence[Item], seconds: float
) -> Diagnosis:
    """Explain the failures. ``seconds`` is the time for the search of causes."""
    kinds = {item.kind for item in failures}
    wrong = bool(kinds & {"exact", "semantic"})
    if not wrong and "precision" not in kinds:
        return Diagnosis(tuple(_gradients(verification, subject)))
    return _ModelDiagnosis(verification, subject, wrong).diagnosis(
        any(item.id == "runs" for item in failures), seconds
    )


def _gradients(verification: Verification, subject: ModelSubject) -> list[str]:
    """Describe wrong gradients of a model whose outputs are right."""
    theirs = subject.theirs
    for entry in verification.evidence["float64"][:1]:
        ours = subject.aligned(entry.results, entry.truth).gradients or {}
        lines = wrong_gradients(ours, entry.truth.gradients or {})
        attached = theirs.run_attached(entry.case) if isinstance(theirs, TorchModel) else entry.truth
        if lines and not wrong_gradients(ours, attached.gradients or {}):
            where = f"where {theirs.module_name} detaches or computes under no_grad"
            lines.insert(0, f"the model keeps the gradient {where}; jax.lax.stop_gradient cuts it")
        return lines
    return []


class _ModelDiagnosis(FailedCase):
    """The explanations of wrong or imprecise outputs of a model."""

    def diagnosis(self, raised: bool, seconds: float) -> Diagnosis:
        """Return the explanations, and the layers or nodes of both models; ``raised`` if ours raised."""
        nodes = Diagnosis()
        if isinstance(self.subject.model, ProgramModel):
            nodes = self._nodes(self.subject.model)
            if not self.wrong or any(not node.ok for node in nodes.layers):
                return nodes
        ours = self._layers()
        theirs = _reference_layers(self.theirs, self.case, np.float64)
        limits = self._limits(theirs)
        layers = compare_layers(ours, theirs, self.subject.names, self.subject.pairing, limits)
        causes = list(self._settings(raised)) or list(self._causes(ours, seconds, _located(layers)))
        causes += self._foreign_weights()
        if not causes and raised:
            causes = ["the model raised an exception: see the item runs"]
        elif not causes:
            message = "no known fault of the operations of torch's module explains the results"
            causes = [message] if isinstance(self.theirs, TorchModel) else []
        lines = [*causes, *self._other_case(), *_location(layers), *nodes.lines]
        return Diagnosis(tuple(lines), layers=tuple(layers))

    def _nodes(self, program: ProgramModel) -> Diagnosis:
        """Name the first node of a program that differs from torch's operator on the same graph."""
        try:
            nodes = _compare_nodes(program, self.case, self.subject.precision)
        except PORT_EXCEPTIONS as error:
            return Diagnosis((f"the nodes cannot be compared: {describe(error)}",))
        if not nodes:
            return Diagnosis()
        differing = next((node for node in nodes if not node.ok), None)
        if differing is None:
            line = (
                f"each of the {len(nodes)} nodes compared equals torch's operator in float64: the graph "
                f"differs from {self.theirs.module_name}, or accuracy is lost only in the working dtype"
            )
        else:
            line = f"first differs at node {differing.theirs}, {differing.kind}: {_size(differing)}"
        return Diagnosis((line,), layers=tuple(nodes))

    def _layers(self) -> list[LayerRecord]:
        """Return the layers of the model on the case, or nothing if they cannot be recorded."""
        try:
            return self.subject.model.layers(self.case, self.dtype, self.subject.precision)
        except PORT_EXCEPTIONS:  # A model may depend on being called as a whole.
            return []

    def _limits(self, theirs: Sequence[LayerRecord]) -> dict[int, float]:
        """Return by position the distance within which a layer is right or precise enough."""
        if self.dtype == np.float64:
            limit = max(self.agreement, ROUNDED_SUMS) if self.subject.pairing.summed() else self.agreement
            return dict.fromkeys(range(len(theirs)), limit)
        rounded = _reference_layers(self.theirs, self.case, self.dtype)
        pairs = enumerate(zip(rounded, theirs, strict=True))
        return {k: OWN_ERRORS * distance(a.outputs, b.outputs) for k, (a, b) in pairs}

    def _settings(self, raised: bool) -> Iterator[str]:
        """Yield what another mode or layout of the arguments shows."""
        if self.wrong:
            for entry in self.check.evidence["float64"][:1]:
                yield from self._evaluation(entry)
        if raised:
            yield from self._channels_last()

    def _run(self, model: JaxModel, case: Case, dtype: Any, cast_model: bool) -> Results | None:
        """Return the results of a model in another setting, or None if it raises."""
        try:
            runner = ModelRunner(model, case, dtype, cast_model=cast_model, precision=self.subject.precision)
            return runner.run(case)
        except PORT_EXCEPTIONS:
            return None

    def _evaluation(self, evidence: Evidence) -> Iterator[str]:
        """Test if the model equals torch in evaluation mode, on float64 evidence."""
        evaluation = self.subject.model.evaluation()
        if not evaluation or (ours := self._run(evaluation, evidence.case, np.float64, True)) is None:
            return
        truth = evidence.truth.outputs
        eval_distance, train_distance = (output_distance(r.outputs, truth) for r in (ours, evidence.results))
        if eval_distance <= AGREEMENT["float32" if self.subject.casts else "float64"] < train_distance:
            yield (
                f"the model is in training mode: after model.eval() it matches {self.theirs.module_name}, "
                f"to within {format_number(eval_distance)}"
            )

    def _channels_last(self) -> Iterator[str]:
        """Test if a model that raised runs with the channels of its arguments moved to the last axis."""
        example, dtype = self.subject.example, self.theirs.dtype
        case = example.map(lambda a: np.moveaxis(a, 1, -1) if a.ndim > 2 else a)
        names = [name for name, a in case.arrays.items() if a.ndim > 2 and is_floating(a)]
        if not names or (ours := self._run(self.subject.model, case, dtype, False)) is None:
            return
        expected = self.theirs.run(example, dtype)
        is_match = output_distance(ours.outputs, expected.outputs) <= AGREEMENT[dtype.name]
        verb = f"matches {self.theirs.module_name}" if is_match else "runs"
        axes = (0, *range(2, case.arrays[names[0]].ndim), 1)
        advice = (
            f"transpose them in the function, x.transpose{axes}"
            if isinstance(self.subject.model, FunctionModel)
            else f"pass call=lambda model, x: model(x.transpose{axes})"
        )
        hint = "" if is_match else "; if its outputs have channels last too, transpose them back"
        yield f"the model {verb} if the channels of {', '.join(names)} are the last axis: {advice}{hint}"

    def _foreign_weights(self) -> Iterator[str]:
        """Name the parameters whose values torch does not have."""
        unpaired, total = self.subject.pairing.unpaired, len(self.subject.working.call.params)
        if len(unpaired) == total > 1:
            yield "no parameter of the model has torch's values: fill it with jaxlstm.load_state_dict first"
        elif unpaired:
            names = ", ".join(unpaired[:3]) + (f" and {len(unpaired) - 3} more" if len(unpaired) > 3 else "")
            yield f"the values of {names} are not a re-layout of any parameter of torch"

    def _causes(self, layers: Sequence[LayerRecord], seconds: float, located: str) -> Iterator[str]:
        """Search for the faults that explain the results. A program has no faults to plant."""
        if not self.wrong and self.check.evidence["float64"]:
            yield f"the model is right in float64; its layers lose accuracy in {self.check.dtype}"
            return
        if isinstance(self.theirs, ProgramReference):
            return
        deadline = Deadline(seconds)
        explanations = FaultedModule(self.theirs, self, layers, located).explain(deadline)
        yield from map(str, explanations)
        if deadline.passed and not explanations:
            yield f"no cause was found in {seconds:g} s; a longer search may find one (argument seconds)"

    def _other_case(self) -> Iterator[str]:
        """Name the case that differs if the example does not."""
        if self.case.optional:
            names = f"{self.subject.model.name} equals {self.theirs.module_name}"
            yield f"{names} on the example; with {self.case.name} it does not"


def _compare_nodes(model: ProgramModel, case: Case, precision: str | None) -> list[LayerDifference]:
    """Compare each node of a program with torch's operator in float64, in the order of the graph.

    Both sides start from the same inputs, so that the first node that differs is the wrong one.
    """
    if model.call is not None:
        return []
    ours: dict[str, Sequence[Array]] = {}

    def record(node: Node, result: Any) -> None:
        ours[node.name] = [np.asarray(a) for a in jax.tree.leaves(result) if isinstance(a, jax.Array)]

    with jax_settings(np.float64, precision):
        program = model.program_in(np.float64)
        args, kwargs = case.call(jax.device_put(dict(case.astype(np.float64).arrays)))
        program.evaluate(program.params, *args, record=record, **kwargs)
        tensors = to_numpy({**program.params, **program.buffers, **program.constants})
        inputs = to_numpy(program.bind(args, kwargs)[0])
    theirs = run_graph(program.graph, tensors, inputs)
    return [
        _node_difference(node, ours[node.name], theirs[node.name])
        for node in program.graph.nodes
        if node.name in theirs and ours.get(node.name)
    ]


def _node_difference(node: Node, ours: Sequence[Array], theirs: Sequence[Array]) -> LayerDifference:
    place = f"{node.name} in {node.module_path}" if node.module_path else node.name
    return LayerDifference(
        place, place, node.op, shape_of(theirs), shape_of(ours), 0.0, distance(ours, theirs), EQUAL
    )


def _reference_layers(theirs: TorchModel | ProgramReference, case: Case, dtype: Any) -> list[LayerRecord]:
    if isinstance(theirs, ProgramReference):
        return theirs.layers(case, dtype)
    return run_planted(theirs, case, dtype, {}, record=True).layers


def _size(layer: LayerDifference) -> str:
    return layer.difference + (" times the largest element" if np.isfinite(layer.outputs) else "")


def _located(layers: Sequence[LayerDifference]) -> str:
    """Return the path of torch's module in which the first difference arises."""
    first = next((layer for layer in layers if not layer.ok), None)
    if first is None:
        return ""
    return first.theirs if first.inputs <= first.limit else first.theirs.rpartition(".")[0]


def _location(layers: Sequence[LayerDifference]) -> Iterator[str]:
    """Name the first layer that differs, and the one before it if the fault lies between the two."""
    agreed = None
    for layer in layers:
        if layer.ok:
            agreed = layer
            continue
        size = _size(layer)
        if not layer.theirs:
            premise = (
                f"the outputs of the layers agree; the results differ after {agreed.name}" if agreed else ""
            )
            yield f"{premise or 'the results differ'}: {size}"
        elif layer.inputs <= layer.limit:
            article = "an" if layer.kind.startswith((*"AEIO", "LSTM", "RNN")) else "a"
            yield f"first differs in {layer.name}, {article} {layer.kind} whose inputs agree: {size}"
        else:
            start = agreed.name if agreed else "the arguments"
            yield f"first differs between {start} and {layer.name}, whose inputs already differ: {size}"
        return
