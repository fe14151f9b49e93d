"""The layers of both models, and a torch module with faults planted at its operations.

A model's outputs on several cases are the evidence. Several faults are found one after the other: the first
of them moves the first layer that differs further down.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxlstm.check.cases.case import Array, Case, LayerRecord
from jaxlstm.check.criteria.difference import EQUAL, distance, shape_of, without_padding
from jaxlstm.check.diagnosis.search import Deadline, Explanation, FaultedReference
from jaxlstm.check.reference.torch_faults.operation import Replacement
from jaxlstm.check.reference.torch_faults.planted import PlantedFault, PlantedRun, planted_faults, run_planted
from jaxlstm.check.reference.torch_model import TorchModel
from jaxlstm.check.report.item import LayerDifference
from jaxlstm.check.subjects.model import ModelSubject
from jaxlstm.check.subjects.pairing import ModuleNames, Pairing
from jaxlstm.check.verification import Evidence


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
    by_path: dict[str, list[LayerRecord]] = {}
    for record in ours:
        by_path.setdefault(record.path, []).append(record)
    partners, calls = _partners(pairing), dict[str, int]()
    found = []
    for position, record in enumerate(theirs):
        calls[record.path] = call = calls.get(record.path, -1) + 1
        candidates = [path for path in by_path if names.match(path, record.path)] if record.path else [""]
        candidates += partners.get(record.path, ())
        records = [by_path[p][call] for p in candidates if p in by_path and len(by_path[p]) > call]
        if not records:
            continue
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


class FaultedModule(FaultedReference):
    """The runs of a torch module in ``dtype`` that should agree with the evidence."""

    def __init__(
        self,
        theirs: TorchModel,
        subject: ModelSubject,
        case: Case,
        position: int,
        layers: Sequence[LayerRecord],
        evidence: Sequence[Evidence],
        *,
        dtype: Any,
        tolerance: float,
    ) -> None:
        """Take the evidence, and the layers of the model on a case, which is used first.

        ``position`` is its position among the cases tried. It may lack evidence, if the model raised.
        """
        self.theirs, self.subject, self.dtype = theirs, subject, dtype
        self.tolerance = tolerance
        self.start = f"matches {theirs.module_name} if"
        self.first, self.layers = case, layers
        finite = [entry for entry in evidence if entry.results.is_finite]
        self.evidence = sorted(finite, key=lambda entry: entry.position != position)
        self.raised = not self.evidence or self.evidence[0].position != position
        planted = self._run((), case, record=True)
        self.operations, self.compared = planted.operations, len(self._compare(planted))

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
            yield from ((fault,) for fault in deadline.before(planted_faults(self.operations)))

    def combined(self, deadline: Deadline) -> Iterator[Faults]:
        """Yield chains of faults, each of which moves the first difference further down."""
        chain: Faults = ()
        progress = self._progress(chain)
        while len(chain) < MAX_FAULTS:
            best = None
            sites = {site for fault in chain for site in fault.replacements}
            for fault in deadline.before(planted_faults(self.operations)):
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
        replacements: dict[int, Replacement] = {}
        for fault in faults:
            replacements |= fault.replacements
        return run_planted(self.theirs, case, self.dtype, replacements, record=record)

    def _layer_distance(self, faults: Faults) -> float:
        """Return the largest distance of the layers that a model recorded before it raised."""
        layers = self._compare(self._run(faults, self.first, record=True))
        if len(layers) < self.compared or not layers:
            return math.inf
        return max(max(layer.inputs, layer.outputs) for layer in layers)

    def _progress(self, faults: Faults) -> int:
        """Return the number of layers before the first difference."""
        layers = self._compare(self._run(faults, self.first, record=True))
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
