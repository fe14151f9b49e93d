"""The diagnosis of a port of an LSTM, line by line, the most likely explanation first.

The faults that explain the results are searched in the oracle. Cases are tried in order of cost, so that a
single time step refutes nearly every pair. Unmasked padding can accompany any fault.
"""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from jaxlstm._shared.table import format_number
from jaxlstm.check.cases.case import Array, Case, Results
from jaxlstm.check.cases.inputs import ordinary_case
from jaxlstm.check.criteria.catalogue import SINGLE
from jaxlstm.check.criteria.difference import AGREEMENT
from jaxlstm.check.diagnosis.locate import locate_difference, wrong_gradients
from jaxlstm.check.diagnosis.search import Deadline, Diagnosis, Explanation, FaultedReference
from jaxlstm.check.exceptions import PORT_EXCEPTIONS
from jaxlstm.check.reference.faults.catalogue import Fault, catalogue
from jaxlstm.check.reference.oracle import OracleCall, OracleRun
from jaxlstm.check.reference.oracle_lstm import OracleLSTM
from jaxlstm.check.report.item import Divergence, Item
from jaxlstm.check.subjects.port import Port
from jaxlstm.check.verification import Evidence, Verification


def diagnose_port(
    verification: Verification, port: Port, failures: Sequence[Item], seconds: float
) -> Diagnosis:
    """Explain the failures. ``seconds`` is the time for pairs of faults."""
    diagnosis = _PortDiagnosis(verification, port, seconds)
    return Diagnosis(tuple(diagnosis.lines(failures)), diagnosis.difference)


class _PortDiagnosis:
    """The explanations of the failures of a port, and where it first differs from the oracle."""

    def __init__(self, verification: Verification, port: Port, seconds: float) -> None:
        self.check, self.port, self.seconds = verification, port, seconds
        self.float64, self.working = (
            [entry for entry in verification.evidence[dtype] if entry.case.is_finite and _has_shapes(entry)]
            for dtype in ("float64", "working")
        )
        self.oracle = OracleLSTM(port.params, port.config)
        self.case = ordinary_case(port.config, verification.seed)
        self.difference = self._locate()

    def _locate(self) -> Divergence | None:
        dtype = np.float64 if self.check.evidence["float64"] else self.check.dtype
        try:
            return locate_difference(self.port, self.case, dtype)
        except PORT_EXCEPTIONS:  # The item "runs" reports them.
            return None

    def lines(self, failures: Sequence[Item]) -> Iterator[str]:
        """Yield the explanations."""
        ids, kinds = ({getattr(item, name) for item in failures} for name in ("id", "kind"))
        if "repeatable" in ids:
            yield "a second call with the same arguments returns different values: the port keeps state"
        if "runs" in ids:
            yield from self._axes()
        imprecise = "precision" in kinds
        if "semantic" in kinds or (imprecise and not self.float64):
            yield from self._values()
        elif imprecise:
            yield from self._precision()
        elif "gradient" in kinds:
            yield from self._gradients()

    def _search(self, evidence: list[Evidence], deadline: Deadline, *, rounding: bool) -> list[Explanation]:
        oracle = self.oracle if evidence is self.float64 else self.oracle.rounded(self.check.dtype)
        return FaultedOracle(oracle, evidence, rounding=rounding).explain(deadline)

    def _values(self) -> Iterator[str]:
        evidence = self.float64 or self.working
        if not evidence:  # The port raised or returned no outputs, which the items report.
            return
        single = self._float32_error()
        deadline = Deadline(self.seconds if single is None else 0)
        explanations = self._search(evidence, deadline, rounding=False)
        yield from map(str, explanations)
        if not explanations and single is not None:
            yield (
                f"the float64 results have an error of {format_number(single)}, as in float32: a part of the "
                "computation is in float32, or one of its numbers is rounded to float32"
            )
        elif not explanations:
            yield (
                "no known fault explains the results; pairs of faults were tried for up to "
                f"{self.seconds:g} s (argument seconds)"
            )
        if self.difference is not None:
            yield str(self.difference)

    def _precision(self) -> Iterator[str]:
        """Explain a port that is right in float64 and imprecise in the working dtype."""
        explanations = self._search(self.working, Deadline(0), rounding=True)
        yield from map(str, explanations)
        if not explanations:
            yield "the equations are right; no known fault of precision explains the loss of accuracy"

    def _gradients(self) -> Iterator[str]:
        for entry in (*self.float64, *self.working):
            if lines := wrong_gradients(entry.results.gradients or {}, entry.truth.gradients or {}):
                yield from lines
                return
        yield "the gradients are right to rounding, but less precise than in correct implementations"

    def _axes(self) -> Iterator[str]:
        """Test if a port that raised expects the batch axis first."""
        truth = self.check.truth.run(self.port.adapt(self.case), np.float64).outputs["outputs"]
        batch_first = self.case.with_arrays(inputs=self.case.inputs.swapaxes(0, 1))
        try:
            results = self.port.run(batch_first, self.check.dtype, gradients=False)
        except PORT_EXCEPTIONS:
            return
        if "outputs" not in results.outputs:
            return
        outputs = np.asarray(results.outputs["outputs"], np.float64).swapaxes(0, 1)
        if outputs.shape == truth.shape and np.allclose(outputs, truth, atol=1e-2):
            yield "the port is batch-first: it matches if its inputs are (batch, time, feature)"

    @np.errstate(invalid="ignore")  # Infinity minus infinity.
    def _float32_error(self) -> float | None:
        """Return the error of the float64 results if float32 rounding explains it, else None."""
        pairs = (
            (a, entry.truth.outputs[name])
            for entry in self.float64
            for name, a in entry.results.outputs.items()
        )
        errors = [np.max(np.abs(a - b) / np.maximum(np.abs(b), 1)) for a, b in pairs]
        worst = float(np.max(errors, initial=0.0))  # NaN if any error is NaN.
        return worst if errors and worst <= SINGLE else None


def _has_shapes(entry: Evidence) -> bool:
    """Return True if the results have outputs, and every array its shape."""
    shapes = {name: a.shape for name, a in entry.truth.outputs.items()}
    outputs = entry.results.outputs
    return "outputs" in outputs and all(a.shape == shapes[name] for name, a in outputs.items())


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
        """Yield each single fault, whatever the deadline."""
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
        return (self._distance(faults, index) for index in range(len(self.calls)))

    def _distance(self, faults: Faults, index: int) -> float:
        call = self._call(faults, index)
        run = call.run() if index else self._cheapest_run(faults)
        return _distance(self.results[index], call.finished(run), self.calls[index])

    def _call(self, faults: Faults, index: int) -> OracleCall:
        call = self.calls[index]
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
    pairs = {name: (a, run.results[name]) for name, a in results.outputs.items()}
    a, b = pairs["outputs"]
    pairs["outputs"] = a[valid], b[valid]
    return max(_relative(*pair) for pair in pairs.values())


@np.errstate(all="ignore")  # Weights may be infinite, and faults may make them infinite.
def _relative(a: Array, b: Array) -> float:
    """Return the RMS difference relative to the RMS of ``b``. NaN becomes infinity."""
    scale = float(np.sqrt(np.mean(b**2))) or 1.0
    distance = float(np.sqrt(np.mean((np.asarray(a, np.float64) - b) ** 2))) / scale
    return distance if np.isfinite(distance) else np.inf
