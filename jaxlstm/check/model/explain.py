"""Naming the fault of a model: the wrong operation of torch's module under which it equals the model.

Each fault of the catalogue is planted at each operation of the torch module, which runs again in float64. A
fault that makes the module equal the model on all the evidence is an explanation. Several faults are found
one after the other: the first of them moves the first layer that differs further down.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxlstm._shared.table import format_number
from jaxlstm.check.model.layers import EQUAL, LayerRecord, compare_layers
from jaxlstm.check.model.layout import Pairing
from jaxlstm.check.model.names import ModuleNames
from jaxlstm.check.model.results import ModelCase
from jaxlstm.check.reference.torch_faults.catalogue import KNOWN, variants
from jaxlstm.check.reference.torch_faults.operation import Planted, Replacement, run_planted
from jaxlstm.check.reference.torch_faults.swaps import swaps
from jaxlstm.check.reference.torch_model import TorchModel
from jaxlstm.check.report.layers import LayerDifference

Array = np.ndarray

AGREEMENT = {"float64": 1e-8, "float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
"""Distance, relative to the largest element, within which a faulty module equals the model."""

IMPROVEMENT = 8.0
"""A fault of precision brings the module at least this many times closer to the model."""

ROUNDING, MUCH_FURTHER = 1e-15, 1e4
"""Faults that come much less near than the best one, beyond rounding, explain nothing."""

Measure = Callable[[Array], float]

MAX_FAULTS, MAX_EXPLANATIONS = 3, 3
"""Largest number of faults combined, and of explanations returned."""


@dataclass(frozen=True)
class Fault:
    """Replacements of operations, by site, and their cause in words."""

    cause: str
    replacements: Mapping[int, Replacement]


@dataclass(frozen=True)
class Evidence:
    """A case and the model's outputs on it, or None if it raised, and its layers on the first case."""

    case: ModelCase
    outputs: Mapping[str, Array] | None
    layers: Sequence[LayerRecord] = ()


class ModelSearch:
    """The search for faults that explain the outputs of a model."""

    def __init__(
        self,
        theirs: TorchModel,
        evidence: Sequence[Evidence],
        names: ModuleNames,
        pairing: Pairing,
        *,
        dtype: Any = np.float64,
        agreement: float = AGREEMENT["float64"],
        seconds: float = 10.0,
    ) -> None:
        """Prepare to explain ``evidence`` of runs in ``dtype``, to within ``agreement``, for ``seconds``."""
        self.theirs, self.evidence = theirs, evidence
        self.names, self.pairing, self.dtype = names, pairing, dtype
        self.agreement = agreement
        self.deadline, self.timed_out = time.monotonic() + seconds, False
        planted = self._run({}, record=True)
        self.operations, self.compared = planted.operations, len(self._compare(planted))

    def single(self, *, rounding: bool = False) -> list[str]:
        """Return single faults that explain all the evidence, the best first."""
        measure = _rms if rounding else _maximum
        distance = self._largest_distance({}, measure)
        if self.evidence[0].outputs is None and distance <= EQUAL:
            return []  # The model raised after layers that are right.
        limit = distance / IMPROVEMENT
        limit = limit if rounding else min(limit, self.agreement)
        found = []
        for fault in self._in_time(self._faults(rounding)):
            reached = self._largest_distance(fault.replacements, measure, limit)
            if reached <= limit:
                found.append((reached, fault.cause))
        if found and not rounding:
            nearest = max(min(reached for reached, _ in found), ROUNDING)
            found = [pair for pair in found if pair[0] <= MUCH_FURTHER * nearest]
        # Among faults that agree to rounding, the order of the catalogue decides.
        found.sort(key=lambda pair: pair[0] if rounding else math.floor(math.log10(pair[0] + 1e-17)))
        return [_sentence(self.theirs, [cause], d) for d, cause in found[:MAX_EXPLANATIONS]]

    def several(self) -> list[str]:
        """Return a chain of faults, each of which moves the first difference further down, or nothing."""
        replacements: dict[int, Replacement] = {}
        causes: list[str] = []
        progress = self._progress(replacements)
        for _ in range(MAX_FAULTS):
            best = None
            for fault in self._in_time(self._faults(rounding=False)):
                if not fault.replacements.keys() & replacements.keys():
                    candidate = {**replacements, **fault.replacements}
                    reached = self._progress(candidate)
                    if reached > progress:
                        best, progress = (candidate, fault.cause), reached
            if best is None:
                return []
            replacements, cause = best
            causes.append(cause)
            reached = self._largest_distance(replacements, _maximum, self.agreement)
            if reached <= self.agreement:
                return [_sentence(self.theirs, causes, reached)]
        return []

    def _faults(self, rounding: bool) -> Iterator[Fault]:
        """Yield every single fault, then the same fault at every operation of a kind, then swaps."""
        alike: dict[tuple[str, str], dict[int, Replacement]] = {}
        for site, operation in enumerate(self.operations):
            for variant in variants(operation, rounding=rounding):
                yield Fault(variant.cause.format(where=operation.where), {site: variant.apply})
                alike.setdefault((operation.name, variant.cause), {})[site] = variant.apply
        for (name, cause), sites in alike.items():
            if len(sites) > 1:
                yield Fault(cause.format(where=f"every {name}"), sites)
        if rounding:
            yield from self._everywhere(alike)
        else:
            yield from (Fault(cause, changes) for cause, changes in swaps(self.operations))

    def _everywhere(self, alike: Mapping[tuple[str, str], Mapping[int, Replacement]]) -> Iterator[Fault]:
        """Yield the faults of precision at every operation of every kind."""
        for cause in dict.fromkeys(cause for _, cause in alike):
            sites = {site: a for (_, other), s in alike.items() if other == cause for site, a in s.items()}
            yield Fault(cause.format(where="every product"), sites)

    def _run(self, replacements: Mapping[int, Replacement], which: int = 0, record: bool = False) -> Planted:
        case = self.evidence[which].case
        return run_planted(self.theirs, case, self.dtype, KNOWN, replacements, record=record)

    def _largest_distance(
        self, replacements: Mapping[int, Replacement], measure: Measure, limit: float = math.inf
    ) -> float:
        """Return the largest distance on any case, or infinity as soon as one exceeds the limit."""
        worst = 0.0
        for which, entry in enumerate(self.evidence):
            found = math.inf
            if entry.outputs is None:
                found = self._layer_distance(replacements)
            elif (outputs := self._run(replacements, which).outputs) is not None:
                found = output_distance(entry.outputs, outputs, measure)
            if not found <= limit:
                return math.inf
            worst = max(worst, found)
        return worst

    def _layer_distance(self, replacements: Mapping[int, Replacement]) -> float:
        """Return the largest distance of the layers that a model recorded before it raised."""
        layers = self._compare(self._run(replacements, record=True))
        if len(layers) < self.compared or not layers:
            return math.inf
        return max(max(layer.inputs, layer.outputs) for layer in layers)

    def _progress(self, replacements: Mapping[int, Replacement]) -> int:
        """Return the number of layers before the first difference."""
        layers = self._compare(self._run(replacements, record=True))
        return next((k for k, layer in enumerate(layers) if not layer.ok), len(layers))

    def _compare(self, planted: Planted) -> list[LayerDifference]:
        return compare_layers(self.evidence[0].layers, planted.layers, self.names, self.pairing, {})

    def _in_time(self, faults: Iterable[Fault]) -> Iterator[Fault]:
        for fault in faults:
            if time.monotonic() > self.deadline:
                self.timed_out = True
                return
            yield fault


def output_distance(
    ours: Mapping[str, Array], theirs: Mapping[str, Array], measure: Measure | None = None
) -> float:
    """Return the largest difference of any output, relative to the measure of torch's.

    The measure is the largest element, or the RMS.
    """
    measure = measure or _maximum
    if {n: a.shape for n, a in ours.items()} != {n: a.shape for n, a in theirs.items()}:
        return math.inf
    pairs = [(a.astype(np.float64), theirs[name].astype(np.float64)) for name, a in ours.items()]
    errors = [measure(a - b) / (measure(b) or 1.0) for a, b in pairs]
    return max((math.inf if math.isnan(error) else error for error in errors), default=0.0)


def _maximum(array: Array) -> float:
    return float(np.max(np.abs(array), initial=0.0))


def _rms(array: Array) -> float:
    return float(np.sqrt(np.mean(array**2))) if array.size else 0.0


def _sentence(theirs: TorchModel, causes: Sequence[str], distance: float) -> str:
    return f"matches {theirs.name} if {' and '.join(causes)}, to within {format_number(distance)}"
