"""The layers of both models, and a torch module with faults planted at its operations.

A model's outputs on several cases are the evidence. Several faults are found one after the other: the first
of them moves the first layer that differs further down.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from jaxlstm.check.cases.case import Array, Case, LayerRecord
from jaxlstm.check.criteria.difference import EQUAL, distance, shape_of, without_padding
from jaxlstm.check.diagnosis.search import Deadline, Explanation, FaultedReference
from jaxlstm.check.reference.jax_runs import jax_settings, to_numpy
from jaxlstm.check.reference.program import ProgramModel
from jaxlstm.check.reference.torch_faults.operation import Replacement
from jaxlstm.check.reference.torch_faults.planted import (
    PlantedFault,
    PlantedRun,
    Site,
    confused,
    planted_faults,
    run_planted,
)
from jaxlstm.check.reference.torch_layers import run_graph
from jaxlstm.check.reference.torch_model import TorchModel
from jaxlstm.check.report.item import LayerDifference
from jaxlstm.check.subjects.model import ModelSubject
from jaxlstm.check.subjects.pairing import ModuleNames, Pairing
from jaxlstm.check.verification import Evidence
from jaxlstm.programs.graph import Node


def compare_layers(
    ours: Sequence[LayerRecord],
    theirs: Sequence[LayerRecord],
    names: ModuleNames,
    pairing: Pairing,
    limits: Mapping[int, float],
) -> list[LayerDifference]:
    """Compare the outputs of the layers that correspond, in torch's order of calls.

    Layers correspond if their paths do, or else if their parameters have the same values. Layers of torch
    without a counterpart are left out. ``limits`` holds the largest distance of equal outputs by position in
    ``theirs``; the default is ``EQUAL``.
    """
    by_path, wanted = _by_path(ours), _by_path(theirs)
    partners, calls = _partners(pairing), dict[str, int]()
    found = []
    for position, record in enumerate(theirs):
        calls[record.path] = call = calls.get(record.path, -1) + 1
        candidates = [path for path in by_path if names.match(path, record.path)] if record.path else [""]
        candidates += partners.get(record.path, ())
        same = wanted[record.path]
        pairs = [_corresponding(by_path[p], same, call) for p in candidates if p in by_path]
        records = [pair[0] for pair in pairs if pair]
        if not records:
            continue
        record = next(pair[1] for pair in pairs if pair)
        compared = [(distance(r.outputs, record.outputs, bool(record.ragged)), r) for r in records]
        outputs, ours_record = min(compared, key=lambda pair: pair[0])
        found.append(
            LayerDifference(
                theirs=record.path,
                ours=ours_record.path,
                kind=record.kind,
                shape=shape_of(record.outputs),
                ours_shape=shape_of(ours_record.outputs),
                inputs=distance(ours_record.inputs, record.inputs, bool(record.ragged)),
                outputs=outputs,
                limit=limits.get(position, EQUAL),
            )
        )
    return found


def compare_nodes(model: ProgramModel, case: Case, precision: str | None) -> list[LayerDifference]:
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
    where = f"{node.name} in {node.module_path}" if node.module_path else node.name
    return LayerDifference(
        where, where, node.op, shape_of(theirs), shape_of(ours), 0.0, distance(ours, theirs), EQUAL
    )


def _by_path(records: Sequence[LayerRecord]) -> dict[str, list[LayerRecord]]:
    by_path: dict[str, list[LayerRecord]] = {}
    for record in records:
        by_path.setdefault(record.path, []).append(record)
    return by_path


def _corresponding(
    ours: Sequence[LayerRecord], theirs: Sequence[LayerRecord], call: int
) -> tuple[LayerRecord, LayerRecord] | None:
    """Return the calls to compare: one on a whole sequence corresponds to all calls in a loop over it."""
    if len(ours) != len(theirs) and 1 in (len(ours), len(theirs)):
        return (_stacked(ours), _stacked(theirs)) if call == 0 else None
    return (ours[call], theirs[call]) if len(ours) > call else None


def _stacked(records: Sequence[LayerRecord]) -> LayerRecord:
    """Return the calls of one layer as one, if their arrays have the same shapes; else the first."""
    first = records[0]
    shapes = {tuple(a.shape for a in (*r.inputs, *r.outputs)) for r in records}
    if len(records) == 1 or len(shapes) > 1:
        return first
    inputs = zip(*(r.inputs for r in records), strict=True)
    outputs = zip(*(r.outputs for r in records), strict=True)
    return replace(first, inputs=tuple(map(np.stack, inputs)), outputs=tuple(map(np.stack, outputs)))


def _partners(pairing: Pairing) -> Mapping[str, Sequence[str]]:
    """Return for each torch module the paths of ours whose parameters hold its values, and their parents."""
    paths: dict[str, list[list[str]]] = {}
    for name, choices in pairing.choices.items():
        if len(choices) == 1:
            for layout in choices[0]:
                paths.setdefault(layout.theirs.rpartition(".")[0], []).append(name.split(".")[:-1])
    partners = {}
    for module, found in paths.items():
        same = itertools.takewhile(lambda steps: len(set(steps)) == 1, zip(*found, strict=False))
        common = [steps[0] for steps in same]
        partners[module] = [".".join(common[:length]) for length in range(len(common), 0, -1)]
    return partners


Faults = tuple[PlantedFault, ...]

MAX_FAULTS = 3
"""Largest number of faults combined."""


@dataclass
class FaultedModule(FaultedReference):
    """The runs of a torch module in ``dtype`` that should agree with the evidence.

    Attributes:
      case: the case that is used first.
      position: its position among the cases tried. It may lack evidence, if the model raised.
      layers: the layers of the model on it.
      whole: the case before it was shortened, whose operations have faults.
      located: the path of the module that is searched first.
    """

    theirs: TorchModel
    subject: ModelSubject
    case: Case
    position: int
    layers: Sequence[LayerRecord]
    evidence: Sequence[Evidence]
    dtype: Any
    tolerance: float
    whole: Case
    located: str

    def __post_init__(self) -> None:
        """Run the module, and sort the evidence."""
        self.start = f"matches {self.theirs.module_name} if"
        finite = [entry for entry in self.evidence if entry.results.is_finite]
        self.evidence = sorted(finite, key=lambda entry: entry.position != self.position)
        self.raised = not self.evidence or self.evidence[0].position != self.position
        self.right = run_planted(self.theirs, self.whole, self.dtype, {}, traced=True)
        self.compared = len(self._compare(self._run((), self.case, record=True)))

    def explain(self, deadline: Deadline) -> list[Explanation]:
        """Return the explanations, except for faults at more operations than another explanation needs."""
        found = super().explain(deadline)
        sites = [{site for fault in each.faults for site in fault.replacements} for each in found]
        return [
            each for each, own in zip(found, sites, strict=True) if not any(other < own for other in sites)
        ]

    def single(self, deadline: Deadline) -> Iterator[Faults]:
        """Yield each single fault, unless the model raised after layers that are right."""
        if not self.raised or max(self.distances(())) > EQUAL:
            yield from ((fault,) for fault in deadline.before(planted_faults(self.right, self.located)))

    def combined(self, deadline: Deadline) -> Iterator[Faults]:
        """Yield confused values, then chains of faults, each moving the first difference further down."""
        if not self.raised:
            yield from ((fault,) for fault in deadline.before(confused(self.right, self.located)))
        chain: Faults = ()
        progress = self._progress(chain)
        while len(chain) < MAX_FAULTS:
            best = None
            sites = {site for fault in chain for site in fault.replacements}
            for fault in deadline.before(planted_faults(self.right, self.located)):
                if not fault.replacements.keys() & sites:
                    reached = self._progress((*chain, fault))
                    if reached > progress:
                        best, progress = (*chain, fault), reached
            if best is None:
                return
            chain = best
            yield chain

    def distances(self, faults: Faults) -> Iterator[float]:
        """Yield the distance from the layers if the model raised, then from the outputs on each case."""
        if self.raised:
            yield self._layer_distance(faults)
        for entry in self.evidence:
            ours, outputs = entry.results.outputs, self._run(faults, entry.case).outputs
            if outputs is None:
                yield math.inf
                continue
            # A fault may keep the padding that torch cuts off.
            cut = {
                n: without_padding(outputs[n], ours[n].shape) for n in self.subject.padded & outputs.keys()
            }
            yield output_distance(ours, outputs | cut)

    def _run(self, faults: Faults, case: Case, record: bool = False) -> PlantedRun:
        replacements: dict[Site, Replacement] = {}
        for fault in faults:
            replacements |= fault.replacements
        traced = any(fault.traced for fault in faults)
        return run_planted(self.theirs, case, self.dtype, replacements, record=record, traced=traced)

    def _layer_distance(self, faults: Faults) -> float:
        """Return the largest distance of the layers that a model recorded before it raised."""
        layers = self._compare(self._run(faults, self.case, record=True))
        if len(layers) < self.compared or not layers:
            return math.inf
        return max(max(layer.inputs, layer.outputs) for layer in layers)

    def _progress(self, faults: Faults) -> int:
        """Return the number of layers before the first difference."""
        layers = self._compare(self._run(faults, self.case, record=True))
        return next((k for k, layer in enumerate(layers) if not layer.ok), len(layers))

    def _compare(self, planted: PlantedRun) -> list[LayerDifference]:
        return compare_layers(self.layers, planted.layers, self.subject.names, self.subject.pairing, {})


def output_distance(ours: Mapping[str, Array], theirs: Mapping[str, Array]) -> float:
    """Return the largest difference of any output, relative to the largest element of torch's."""
    if {n: a.shape for n, a in ours.items()} != {n: a.shape for n, a in theirs.items()}:
        return math.inf
    pairs = [(a.astype(np.float64), theirs[name].astype(np.float64)) for name, a in ours.items()]
    errors = [_largest(a - b) / (_largest(b) or 1.0) for a, b in pairs]
    return max((math.inf if math.isnan(error) else error for error in errors), default=0.0)


def _largest(array: Array) -> float:
    return float(np.max(np.abs(array), initial=0.0))
