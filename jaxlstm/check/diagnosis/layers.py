"""The layers of both models, and a torch module with faults planted at its operations.

A model's outputs on several cases are the evidence. Several faults are found one after the other: the first
of them moves the first layer that differs further down.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from jaxlstm.check.cases.case import Array, Case, LayerRecord
from jaxlstm.check.criteria.difference import AGREEMENT, EQUAL, distance, shape_of, without_padding
from jaxlstm.check.diagnosis.search import Deadline, Explanation, FaultedReference
from jaxlstm.check.exceptions import PORT_EXCEPTIONS
from jaxlstm.check.reference.torch_faults.operation import Replacement
from jaxlstm.check.reference.torch_faults.planted import (
    PlantedFault,
    PlantedRun,
    Site,
    confused,
    planted_faults,
    run_planted,
)
from jaxlstm.check.reference.torch_model import TorchModel
from jaxlstm.check.report.item import LayerDifference
from jaxlstm.check.subjects.model import ModelSubject
from jaxlstm.check.subjects.pairing import ModuleNames, Pairing
from jaxlstm.check.verification import Evidence, Verification


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
    ours_by_path, theirs_by_path = _by_path(ours), _by_path(theirs)
    partners, calls = _partners(pairing), dict[str, int]()
    differences = []
    for position, record in enumerate(theirs):
        calls[record.path] = call = calls.get(record.path, -1) + 1
        candidates = [p for p in ours_by_path if names.match(p, record.path)] if record.path else [""]
        candidates += partners.get(record.path, ())
        same_path = theirs_by_path[record.path]
        pairs = [_corresponding(ours_by_path[p], same_path, call) for p in candidates if p in ours_by_path]
        records = [pair[0] for pair in pairs if pair]
        if not records:
            continue
        record = next(pair[1] for pair in pairs if pair)
        compared = [(distance(r.outputs, record.outputs, bool(record.ragged)), r) for r in records]
        outputs, ours_record = min(compared, key=lambda pair: pair[0])
        differences.append(
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
    return differences


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
    for module, candidates in paths.items():
        shared_steps = itertools.takewhile(lambda steps: len(set(steps)) == 1, zip(*candidates, strict=False))
        common = [steps[0] for steps in shared_steps]
        partners[module] = [".".join(common[:length]) for length in range(len(common), 0, -1)]
    return partners


SHORT = 3
"""Steps of a sequence that show the faults of a loop."""


class FailedCase:
    """The case on which the outputs of a model are wrong or imprecise, if possible a short one.

    Attributes:
      position: the position of the case among those tried. Wrong values show on the first case that failed;
        rounding errors are measured over all cases.
      whole: the case before it was shortened.
      dtype: the dtype of the runs to compare.
      agreement: the distance of runs in that dtype that agree.
      evidence: the results in that dtype.
    """

    def __init__(self, verification: Verification, subject: ModelSubject, wrong: bool) -> None:
        """Choose the case of a verification; ``wrong`` if not only rounding errors are too large."""
        self.check, self.subject, self.theirs, self.wrong = verification, subject, subject.theirs, wrong
        self.position = (verification.first_failure if wrong else None) or 0
        self.case = self.whole = verification.tried[self.position]
        in_float64 = wrong and not verification.float64_refusal
        self.dtype = np.dtype(np.float64) if in_float64 else self.theirs.dtype
        self.agreement = AGREEMENT["float32" if subject.casts else self.dtype.name]
        self.evidence = verification.evidence["float64" if self.dtype == np.float64 else "working"]
        self._shorten()

    def _shorten(self) -> None:
        """Take the first three elements of the axes that torch lets change as the case, if it fails too.

        The search of causes runs torch for each fault, and loops over time steps take most of its time.
        """
        case = self.case
        for size in sorted({n for shape in case.shapes for n in shape if n > SHORT}):
            shortened = {
                k: a[tuple(slice(SHORT if n == size else n) for n in a.shape)] for k, a in case.arrays.items()
            }
            shorter = case.with_arrays(**shortened)
            case = case if self.theirs.refusal(shorter) else shorter
        if not self.wrong or not self.evidence or case is self.case:
            return
        try:
            truth = self.theirs.run(case, self.dtype)
            ours = self.subject.comparable(self.subject.run(case, self.dtype), case, lambda: truth)
        except PORT_EXCEPTIONS:
            return
        if self.agreement < output_distance(ours.outputs, truth.outputs) < np.inf:
            self.case, self.position = case, -1
            self.evidence = [Evidence(case, ours, truth, -1), *self.evidence]


Faults = tuple[PlantedFault, ...]

MAX_FAULTS = 3
"""Largest number of faults combined."""


class FaultedModule(FaultedReference):
    """The runs of a torch module that should agree with the evidence on a failed case and on others."""

    def __init__(
        self, theirs: TorchModel, failed: FailedCase, layers: Sequence[LayerRecord], located: str
    ) -> None:
        """Take the layers of the model on the failed case, and the path of the module that is searched first.

        The model may have raised on that case, which then lacks evidence.
        """
        self.theirs, self.failed, self.layers, self.located = theirs, failed, layers, located
        self.start, self.tolerance = f"matches {theirs.module_name} if", failed.agreement
        finite = [entry for entry in failed.evidence if entry.results.is_finite]
        self.evidence = sorted(finite, key=lambda entry: entry.position != failed.position)
        self.raised = not self.evidence or self.evidence[0].position != failed.position
        # The operations of the whole case have faults.
        self.right = run_planted(theirs, failed.whole, failed.dtype, {}, traced=True)
        self.compared = len(self._compare(self._run((), failed.case, record=True)))

    def explain(self, deadline: Deadline) -> list[Explanation]:
        """Return the explanations, except for faults at more operations than another explanation needs."""
        explanations = super().explain(deadline)
        site_sets = [{site for fault in e.faults for site in fault.replacements} for e in explanations]
        pairs = zip(explanations, site_sets, strict=True)
        return [e for e, sites in pairs if not any(other < sites for other in site_sets)]

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
        padded = self.failed.subject.padded
        if self.raised:
            yield self._layer_distance(faults)
        for entry in self.evidence:
            ours, outputs = entry.results.outputs, self._run(faults, entry.case).outputs
            if outputs is None:
                yield math.inf
                continue
            # A fault may keep the padding that torch cuts off.
            trimmed = {n: without_padding(outputs[n], ours[n].shape) for n in padded & outputs.keys()}
            yield output_distance(ours, outputs | trimmed)

    def _run(self, faults: Faults, case: Case, record: bool = False) -> PlantedRun:
        replacements: dict[Site, Replacement] = {}
        for fault in faults:
            replacements |= fault.replacements
        traced = any(fault.traced for fault in faults)
        return run_planted(self.theirs, case, self.failed.dtype, replacements, record=record, traced=traced)

    def _layer_distance(self, faults: Faults) -> float:
        """Return the largest distance of the layers that a model recorded before it raised."""
        layers = self._compare(self._run(faults, self.failed.case, record=True))
        if len(layers) < self.compared or not layers:
            return math.inf
        return max(max(layer.inputs, layer.outputs) for layer in layers)

    def _progress(self, faults: Faults) -> int:
        """Return the number of layers before the first difference."""
        layers = self._compare(self._run(faults, self.failed.case, record=True))
        return next((k for k, layer in enumerate(layers) if not layer.ok), len(layers))

    def _compare(self, planted: PlantedRun) -> list[LayerDifference]:
        subject = self.failed.subject
        return compare_layers(self.layers, planted.layers, subject.names, subject.pairing, {})


def output_distance(ours: Mapping[str, Array], theirs: Mapping[str, Array]) -> float:
    """Return the largest difference of any output, relative to the largest element of torch's."""
    if {n: a.shape for n, a in ours.items()} != {n: a.shape for n, a in theirs.items()}:
        return math.inf
    pairs = [(a.astype(np.float64), theirs[name].astype(np.float64)) for name, a in ours.items()]
    errors = [_largest(a - b) / (_largest(b) or 1.0) for a, b in pairs]
    return max((math.inf if math.isnan(error) else error for error in errors), default=0.0)


def _largest(array: Array) -> float:
    return float(np.max(np.abs(array), initial=0.0))
