"""The diagnosis of a port of an LSTM, line by line, the most likely explanation first."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from jaxlstm._shared.table import format_number
from jaxlstm.check.cases.inputs import ordinary_case
from jaxlstm.check.criteria.catalogue import SINGLE
from jaxlstm.check.diagnosis.faulted_oracle import FaultedOracle
from jaxlstm.check.diagnosis.locate import locate_difference, wrong_gradients
from jaxlstm.check.diagnosis.search import Deadline, Diagnosis, Explanation, Failures
from jaxlstm.check.exceptions import PORT_EXCEPTIONS
from jaxlstm.check.reference.oracle_lstm import OracleLSTM
from jaxlstm.check.report.item import Divergence
from jaxlstm.check.subjects.port import PortSubject
from jaxlstm.check.verification import Evidence, Verification

Array = np.ndarray


def diagnose_port(
    verification: Verification, port: PortSubject, failures: Failures, seconds: float
) -> Diagnosis:
    """Explain the failures. ``seconds`` is the time for pairs of faults."""
    found = _PortDiagnosis(verification, port, seconds)
    return Diagnosis(tuple(found.lines(failures)), found.difference)


class _PortDiagnosis:
    """The explanations of the failures of a port, and where it first differs from the oracle."""

    def __init__(self, verification: Verification, port: PortSubject, seconds: float) -> None:
        self.check, self.port, self.seconds = verification, port, seconds
        self.float64, self.working = (
            [entry for entry in verification.evidence[which] if entry.case.is_finite and _has_shapes(entry)]
            for which in ("float64", "working")
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

    def lines(self, failures: Failures) -> Iterator[str]:
        """Yield the explanations."""
        if "repeatable" in failures.ids:
            yield "a second call with the same arguments returns different values: the port keeps state"
        if "runs" in failures.ids:
            yield from self._axes()
        imprecise = "precision" in failures.kinds
        if "semantic" in failures.kinds or (imprecise and not self.float64):
            yield from self._values()
        elif imprecise:
            yield from self._precision()
        elif "gradient" in failures.kinds:
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

        def errors(entry: Evidence) -> Iterator[float]:
            for name, a in entry.results.outputs.items():
                b = entry.truth.outputs[name]
                scale = np.maximum(np.abs(b), 1)
                same = a.shape == b.shape
                yield float(np.max(np.abs(a - b) / scale, initial=0.0)) if same else np.inf

        found = [error for entry in self.float64 for error in errors(entry)]
        worst = float(np.max(found, initial=0.0))  # NaN if any error is NaN.
        return worst if found and worst <= SINGLE else None


def _has_shapes(entry: Evidence) -> bool:
    """Return True if the results have outputs, and every array its shape."""
    shapes = {name: a.shape for name, a in entry.truth.outputs.items()}
    found = entry.results.outputs
    return "outputs" in found and all(a.shape == shapes[name] for name, a in found.items())
