"""The oracle with faults, and a port's results on several cases as the evidence.

Cases are tried in order of cost, so that a single time step refutes nearly every pair. Unmasked padding can
accompany any fault.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from jaxlstm.check.cases.case import Case, Results
from jaxlstm.check.criteria.difference import AGREEMENT
from jaxlstm.check.diagnosis.search import Deadline, FaultedReference
from jaxlstm.check.reference.faults.catalogue import catalogue
from jaxlstm.check.reference.faults.fault import Fault
from jaxlstm.check.reference.oracle import OracleCall, OracleRun
from jaxlstm.check.reference.oracle_lstm import OracleLSTM
from jaxlstm.check.verification import Evidence

Array = np.ndarray
Faults = tuple[Fault, ...]


class FaultedOracle(FaultedReference):
    """The evidence in order of cost, and the oracle runs made so far."""

    start = "matches an LSTM in which"

    def __init__(self, oracle: OracleLSTM, evidence: Sequence[Evidence], *, rounding: bool = False) -> None:
        """Take evidence of the right shapes without NaN; ``rounding`` restricts the search to precision."""
        self.rounding, self.causes = rounding, list[str]()
        self.calls: list[OracleCall] = []
        self.results: list[Results] = []
        for entry in sorted(evidence, key=lambda entry: _cost(entry.case)):
            padding = np.asarray(entry.results.outputs["outputs"][~entry.case.valid], np.float64)
            if np.any(padding != 0):
                self.causes = ["the outputs in the padding are not zeroed"]
            self.calls.append(oracle.call(entry.case))
            self.results.append(entry.results)
        dtypes = {entry.results.outputs["outputs"].dtype.name for entry in evidence}
        self.tolerance = max((AGREEMENT.get(name, 0.0) for name in dtypes), default=0.0)
        self.cheapest_runs: dict[Faults, OracleRun] = {}
        self.faults = [fault for fault in catalogue(oracle.config) if fault.rounding or not rounding]

    def single(self, deadline: Deadline) -> Iterator[Faults]:
        """Yield every fault alone, whatever the deadline."""
        return ((fault,) for fault in self.faults)

    def combined(self, deadline: Deadline) -> Iterator[Faults]:
        """Yield the pairs that the cheapest case does not refute, until the deadline.

        Pairs in which one fault does not change the run of the cheapest case come first, because they need no
        further run of the oracle.
        """
        if self.rounding:
            return
        semantic = [fault for fault in self.faults if not fault.rounding]
        pairs = [p for p in itertools.combinations(semantic, 2) if p[0].group != p[1].group]
        effective = {fault for fault in semantic if not self._is_idle(fault)}
        cheap = [pair for pair in pairs if not effective.issuperset(pair)]
        costly = [pair for pair in pairs if effective.issuperset(pair)]
        pairs = itertools.chain(cheap, costly)
        yield from (pair for pair in deadline.before(pairs) if self._distance(pair, 0) <= self.tolerance)

    def distances(self, faults: Faults) -> Iterator[float]:
        """Yield the distance of the oracle under some faults from the results on each case."""
        return (self._distance(faults, which) for which in range(len(self.calls)))

    def _distance(self, faults: Faults, which: int) -> float:
        call = self._call(faults, which)
        run = call.run() if which else self._cheapest_run(faults)
        return _distance(self.results[which], call.finished(run), self.calls[which])

    def _call(self, faults: Faults, which: int) -> OracleCall:
        call = self.calls[which]
        for fault in faults:
            call = fault.apply(call)
        return call

    def _cheapest_run(self, faults: Faults) -> OracleRun:
        """Return the oracle's run of the cheapest case. Runs with at most one fault are kept."""
        if len(faults) > 1:
            faults = tuple(fault for fault in faults if not self._is_idle(fault))
        if len(faults) > 1:
            return self._call(faults, 0).run()
        if faults not in self.cheapest_runs:
            self.cheapest_runs[faults] = self._call(faults, 0).run()
        return self.cheapest_runs[faults]

    def _is_idle(self, fault: Fault) -> bool:
        """Return True if a fault does not change the run of the cheapest case."""
        run, correct = self._cheapest_run((fault,)), self._cheapest_run(())
        return all(np.array_equal(a, b) for a, b in zip(run[:3], correct[:3], strict=True))


def _cost(case: Case) -> tuple[int, bool]:
    """Sort by size. Cases from a zero state come first, where no fault of the state can hide another."""
    zero_state = case.initial_state is None or not any(a.any() for a in case.initial_state)
    return case.inputs.shape[0] * 100 + case.inputs.shape[1], not zero_state


def _distance(results: Results, run: OracleRun, call: OracleCall) -> float:
    """Return the largest RMS difference of any array relative to its RMS value, on valid steps."""
    valid = np.arange(call.inputs.shape[0])[:, None] < call.lengths[None, :]
    distances = []
    for name, a in results.outputs.items():
        b = run.results[name]
        if a.shape != b.shape:
            return np.inf
        distances.append(_relative(a[valid], b[valid]) if name == "outputs" else _relative(a, b))
    return max(distances, default=np.inf)


@np.errstate(all="ignore")  # Weights may be infinite, and faults may make them infinite.
def _relative(a: Array, b: Array) -> float:
    """Return the RMS difference relative to the RMS of ``b``. NaN becomes infinity."""
    if not b.size:
        return 0.0
    scale = float(np.sqrt(np.mean(b**2))) or 1.0
    distance = float(np.sqrt(np.mean((np.asarray(a, np.float64) - b) ** 2))) / scale
    return distance if np.isfinite(distance) else np.inf
