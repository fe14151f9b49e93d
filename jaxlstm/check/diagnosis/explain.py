"""Naming the fault: the faults of the catalogue under which the oracle agrees with a port.

The port's results on several cases are the evidence. Each fault is applied to the oracle, and then each
pair of faults while time lasts. A fault that makes the oracle agree with all the evidence is an explanation.
Cases are tried in order of cost, so that a single time step refutes nearly every pair.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from jaxlstm._shared.table import format_number
from jaxlstm.check.diagnosis.layout import repair_layout, swapped_arrays
from jaxlstm.check.faults.catalogue import catalogue
from jaxlstm.check.faults.cells import CLIPS, clipped_c
from jaxlstm.check.faults.fault import Fault, OracleCall
from jaxlstm.check.reference.oracle import OracleRun
from jaxlstm.check.reference.results import Evidence, Results
from jaxlstm.layer.config import LSTMConfig

Array = np.ndarray

AGREEMENT = {"float64": 1e-8, "float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
"""Distance, relative to the RMS of an array, within which a port agrees with a faulty oracle."""

IMPROVEMENT = 8.0
"""An explanation brings the oracle at least this many times closer to the port."""

MAX_EXPLANATIONS = 3
"""Largest number of single faults returned. Of pairs, only the first is returned."""


@dataclass(frozen=True)
class Explanation:
    """Faults under which the oracle agrees with a port, and the remaining distance."""

    causes: tuple[str, ...]
    distance: float

    def __str__(self) -> str:
        causes = " and ".join(self.causes)
        return f"matches an LSTM in which {causes}, to within {format_number(self.distance)}"


@np.errstate(all="ignore")  # Weights may be infinite, and faults may make them infinite.
def explain(
    evidence: Sequence[Evidence], config: LSTMConfig, *, seconds: float = 10.0, rounding: bool = False
) -> list[Explanation]:
    """Return the faults, or else the pair of faults, that explain all the evidence, the best first.

    The evidence must be free of NaN. ``seconds`` limits the time for pairs; single faults are always tried.
    If ``rounding`` is true, only faults of precision are tried.
    """
    search = _Search(evidence, config)
    known = (*catalogue(config), *_clipped(search.results))
    faults = [fault for fault in known if fault.rounding or not rounding]
    found = list(search.agreeing([()])) if search.layout_causes else []
    if not found:
        found = list(search.agreeing((fault,) for fault in faults))
    if not found:
        pairs = search.pairs(faults, time.monotonic() + seconds)
        found = list(itertools.islice(search.agreeing(pairs), 1))
    return sorted(found, key=lambda e: np.floor(np.log10(e.distance + 1e-17)))[:MAX_EXPLANATIONS]


class _Search:
    """The evidence in order of cost, with its layout repaired, and the oracle runs made so far."""

    def __init__(self, evidence: Sequence[Evidence], config: LSTMConfig) -> None:
        self.calls: list[OracleCall] = []
        self.results: list[Results] = []
        self.layout_causes: dict[str, None] = {}  # A set that keeps its order.
        swapped = swapped_arrays(evidence, config)
        for entry in sorted(evidence, key=_cost):
            results, causes = repair_layout(entry, config, swapped)
            self.layout_causes |= dict.fromkeys(causes)
            self.calls.append(OracleCall.of(entry.params, config, entry.case))
            self.results.append(results)
        dtypes = {e.results.outputs.dtype.name for e in evidence}
        self.tolerance = max((AGREEMENT.get(name, 0.0) for name in dtypes), default=0.0)
        self.correct_runs = [call.run() for call in self.calls]
        self.cheapest_runs: dict[tuple[Fault, ...], OracleRun] = {}
        self.distance_without = max(
            (self.distance((), which) for which in range(len(self.calls))), default=np.inf
        )

    def agreeing(self, candidates: Iterable[tuple[Fault, ...]]) -> Iterator[Explanation]:
        """Yield the candidates under which the oracle agrees with all the evidence."""
        for faults in candidates:
            distance = self._largest_distance(faults)
            if distance is not None:
                causes = (*(fault.cause for fault in faults), *self.layout_causes)
                yield Explanation(causes, distance)

    def pairs(self, faults: Sequence[Fault], deadline: float) -> Iterator[tuple[Fault, Fault]]:
        """Yield the pairs that the cheapest case does not refute, until the deadline.

        Pairs in which one fault does not change the run of the cheapest case come first, because they need no
        further run of the oracle. A fault of precision is paired only with faults that already bring the
        oracle closer.
        """
        semantic = [fault for fault in faults if not fault.rounding]
        single = {fault: self.distance((fault,), 0) for fault in semantic}
        close = [f for f in semantic if single[f] <= self.distance_without / IMPROVEMENT]
        pairs = [p for p in itertools.combinations(semantic, 2) if p[0].group != p[1].group]
        effective = {fault for fault in semantic if not self._is_idle(fault)}
        cheap = [pair for pair in pairs if not effective.issuperset(pair)]
        costly = [pair for pair in pairs if effective.issuperset(pair)]
        of_precision = itertools.product(close, (fault for fault in faults if fault.rounding))

        def in_time(pairs: Iterable[tuple[Fault, Fault]]) -> Iterator[tuple[Fault, Fault]]:
            return itertools.takewhile(lambda _: time.monotonic() < deadline, pairs)

        yield from (pair for pair in in_time(cheap) if self.distance(pair, 0) <= self.tolerance)
        yield from in_time(of_precision)
        yield from (pair for pair in in_time(costly) if self._lowest_layer_distance(pair) <= self.tolerance)

    def distance(self, faults: tuple[Fault, ...], which: int) -> float:
        """Return the distance of the oracle under some faults from the results on one case."""
        call = self._call(faults, which)
        run = self._cheapest_run(faults, call) if which == 0 else call.run()
        return _distance(self.results[which], call.finished(run), self.calls[which])

    def _largest_distance(self, faults: tuple[Fault, ...]) -> float | None:
        """Return the largest distance on any case, or None as soon as one exceeds the limit."""
        limit, worst = self._limit(faults), 0.0
        for which in range(len(self.calls)):
            distance = self.distance(faults, which)
            if not distance <= limit or distance == np.inf:
                return None
            worst = max(worst, distance)
        return worst

    def _limit(self, faults: tuple[Fault, ...]) -> float:
        """Return the largest distance of an explanation by some faults.

        A fault of precision must bring the oracle closer than the other faults do on their own.
        """
        semantic = tuple(fault for fault in faults if not fault.rounding)
        if not faults:
            return self.tolerance
        if len(semantic) == len(faults):
            return min(self.tolerance, self.distance_without / IMPROVEMENT)
        without = self.distance_without
        if semantic:
            without = max(self.distance(semantic, which) for which in range(len(self.calls)))
        return min(self.distance_without, without) / IMPROVEMENT

    def _call(self, faults: tuple[Fault, ...], which: int) -> OracleCall:
        call = self.calls[which]
        for fault in faults:
            call = fault.apply(call)
        return call

    def _cheapest_run(self, faults: tuple[Fault, ...], call: OracleCall) -> OracleRun:
        """Return the oracle's run of the cheapest case, made once for the faults that change it."""
        if len(faults) > 1:
            faults = tuple(fault for fault in faults if not self._is_idle(fault))
            call = self._call(faults, 0)
        if not faults:
            return self.correct_runs[0]
        if faults not in self.cheapest_runs:
            unchanged = len(faults) == 1 and faults[0].only_finishes(self.calls[0])
            self.cheapest_runs[faults] = self.correct_runs[0] if unchanged else call.run()
        return self.cheapest_runs[faults]

    def _is_idle(self, fault: Fault) -> bool:
        """Return True if a fault does not change the run of the cheapest case."""
        run, correct = self._cheapest_run((fault,), self._call((fault,), 0)), self.correct_runs[0]
        return run is correct or all(np.array_equal(a, b) for a, b in zip(run[:3], correct[:3], strict=True))

    def _lowest_layer_distance(self, faults: tuple[Fault, ...]) -> float:
        """Return the distance of the lowest layer's state in the cheapest case."""
        run, ours = self._call(faults, 0).run(layers=1), self.results[0]
        pairs = [(ours.h_n, run.h_n), (ours.c_n, run.c_n)]
        return max((_relative(a[: len(b)], b) for a, b in pairs if a is not None), default=0.0)


def _clipped(results: Iterable[Results]) -> Iterator[Fault]:
    """Yield the fault of a clipped c if the largest magnitude in c_n occurs several times."""
    sizes = [np.abs(r.c_n).ravel() for r in results if r.c_n is not None]
    if not sizes:
        return
    numbers = np.concatenate(sizes)
    bound = float(np.max(numbers, initial=0.0))
    if np.isfinite(bound) and bound not in (0.0, *CLIPS) and np.count_nonzero(numbers == bound) > 1:
        yield clipped_c(bound)


def _cost(evidence: Evidence) -> tuple[int, bool]:
    """Sort by size. Cases from a zero state come first, where no fault of the state can hide another."""
    case = evidence.case
    zero_state = case.initial_state is None or not any(a.any() for a in case.initial_state)
    return case.inputs.shape[0] * 100 + case.inputs.shape[1], not zero_state


def _distance(results: Results, other: Results, call: OracleCall) -> float:
    """Return the largest RMS difference of any array relative to its RMS value, on valid steps."""
    valid = np.arange(call.inputs.shape[0])[:, None] < call.lengths[None, :]
    others, distances = dict(other.leaves()), []
    for name, value in results.leaves():
        a, b = value, others[name]
        if a.shape != b.shape:
            return np.inf
        distances.append(_relative(a[valid], b[valid]) if name == "outputs" else _relative(a, b))
    return max(distances, default=np.inf)


def _relative(a: Array, b: Array) -> float:
    """Return the RMS difference relative to the RMS of ``b``. NaN becomes infinity."""
    if not b.size:
        return 0.0
    scale = float(np.sqrt(np.mean(b**2))) or 1.0
    distance = float(np.sqrt(np.mean((np.asarray(a, np.float64) - b) ** 2))) / scale
    return distance if np.isfinite(distance) else np.inf
