"""A verification in progress: runs a port on each case and collects the findings.

The criteria measure and decide; this module only decides what to run.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jax.errors import ConcretizationTypeError, TracerArrayConversionError

from jaxlstm.check.criteria import exact, rms, semantics
from jaxlstm.check.criteria.findings import Findings
from jaxlstm.check.criteria.step_residual import step_residual
from jaxlstm.check.exceptions import PORT_EXCEPTIONS, describe
from jaxlstm.check.port import Port, PortError
from jaxlstm.check.reference import torch_runner
from jaxlstm.check.reference.cases import Case
from jaxlstm.check.reference.results import Evidence, Results, oracle_results
from jaxlstm.check.report.data import Item
from jaxlstm.layer.config import LSTMConfig


@dataclass
class Verification:
    """A port, the LSTM that it should be, and the findings so far.

    Attributes:
      references: "torch", "oracle" or both.
      tolerance: (rtol, atol) set by the caller, or None for the criteria.
      run_float64: if true, the port also runs in float64.
      float64_refusal: the reason why the port cannot run in float64, or an empty string.
      not_differentiable: the reason why JAX cannot differentiate the port, or an empty string.
      findings: the outcome of each criterion.
      evidence: the results on finite inputs, by "float64" and "working".
      conditions: by case, the change of each array for a change of one ulp in every number.
      chaotic: by case, the amplification of one ulp, for cases whose RMS errors are not compared.
      nan: the case with NaN, the port's results on it, and the correct results.
    """

    port: Port
    params: dict[str, np.ndarray]
    config: LSTMConfig
    dtype: np.dtype
    seed: int
    gradients: bool
    references: tuple[str, ...]
    tolerance: tuple[float, float] | None
    precision: str | None
    run_float64: bool = True
    float64_refusal: str = ""
    not_differentiable: str = ""
    findings: Findings = field(default_factory=Findings)
    evidence: dict[str, list[Evidence]] = field(default_factory=lambda: {"float64": [], "working": []})
    conditions: dict[str, dict[str, float]] = field(default_factory=dict)
    chaotic: dict[str, float] = field(default_factory=dict)
    nan: tuple[Case, Results, Results] | None = None

    def try_case(self, case: Case) -> None:
        """Run the port on one case and record the findings."""
        case = self.port.adapt(case)
        gradients = self.gradients and case.differentiate
        rounded = case.astype(self.dtype)
        params = {name: a.astype(self.dtype) for name, a in self.params.items()}
        try:
            ours = self._run_port(rounded, self.dtype, gradients)
        except PortError:
            raise
        except PORT_EXCEPTIONS as error:
            self.findings.add_problem("runs", case.name, describe(error))
            return
        self.findings.add_problem("runs", case.name, "")
        case, rounded = (
            c.without_results(h_n=ours.h_n is None, c_n=ours.c_n is None) for c in (case, rounded)
        )
        if self.tolerance is None and self.run_float64:
            self._check_float64(case, gradients, ours)
        truth = self.truth(params, rounded, gradients)
        self._keep("working", rounded, params, ours)
        problem = exact.shape_and_dtype(ours, truth, self.dtype)
        self.findings.add_problem("shape and dtype", case.name, problem)
        if exact.shape_and_dtype(ours, truth, ours.outputs.dtype):
            return  # Arrays of different shapes cannot be compared.
        if not np.isfinite(case.inputs).all():
            self.nan = rounded, ours, truth
        problem = exact.nan_mask(ours, truth)
        self.findings.add_problem("NaN mask", case.name, problem)
        if problem:
            return
        if case.name == "ragged":
            again = self._run_port(rounded, self.dtype, gradients)
            self.findings.add_problem("repeatable", case.name, exact.repeatability(ours, again))
        if self.tolerance is not None:
            self.findings.add_tolerance(case.name, ours.arrays(), truth.arrays(), self.tolerance)
        elif self.dtype != np.float64:
            self._check_rms(params, rounded, ours, truth)

    def _check_float64(self, case: Case, gradients: bool, ours: Results) -> None:
        """Compare the port in float64 with each reference in float64.

        ``ours`` are the results in the working dtype.
        """
        if self.float64_refusal:
            return
        if self.dtype != np.float64:
            try:
                ours = self._run_port(case, np.float64, gradients)
            except PORT_EXCEPTIONS as error:
                self.float64_refusal = f"the port raised for float64 inputs: {describe(error)}"
                return
        if ours.outputs.dtype != np.float64 and self.dtype != np.float64:
            self.float64_refusal = f"the port returned {ours.outputs.dtype} for float64 inputs"
            return
        truth = self.truth(self.params, case, gradients)
        self._keep("float64", case, self.params, ours)
        if problem := exact.shape_and_dtype(ours, truth, np.float64):
            self.findings.add_problem("shape and dtype", case.name, f"in float64, {problem}")
            return
        if problem := exact.nan_mask(ours, truth):
            self.findings.add_problem("NaN mask", case.name, f"in float64, {problem}")
            return
        condition = self._condition(self.params, case, truth, gradients)
        for reference in self.references:
            theirs = truth
            if reference == "torch" and "oracle" in self.references:
                theirs = self._run_torch(case, np.float64, gradients)
            number = semantics.result_semantics(ours, theirs, condition, case.largest_c)
            name = f"float64 semantics against {reference}"
            self.findings.add_measurement(name, case.name, number)
            if ours.gradients and theirs.gradients:
                number = semantics.gradient_semantics(ours.gradients, theirs.gradients, condition)
                name = f"float64 gradients against {reference}"
                self.findings.add_measurement(name, case.name, number)

    def _condition(
        self, params: Mapping[str, Any], case: Case, truth: Results, gradients: bool
    ) -> dict[str, float]:
        if case.name not in self.conditions:
            rng = np.random.default_rng([self.seed, 99])
            self.conditions[case.name] = semantics.condition_of(
                params, self.config, case, truth, rng, gradients=gradients
            )
        return self.conditions[case.name]

    def _check_rms(self, params: Mapping[str, Any], case: Case, ours: Results, truth: Results) -> None:
        """Compare the RMS errors of the port, of torch and of the equations in NumPy."""
        gradients = ours.gradients is not None
        condition = self._condition(params, case, truth, gradients)
        amplification = semantics.amplification(condition, truth)
        if not amplification <= rms.CHAOTIC:
            self.chaotic[case.name] = amplification
            return
        arguments = (params, self.config, case, self.dtype)
        correct = [r.arrays() for r in rms.correct_results(*arguments, gradients=gradients)]
        torch = {}
        if "torch" in self.references:
            torch = self._run_torch(case, self.dtype, gradients).arrays()
        true = truth.arrays()
        for name, value in ours.arrays().items():
            others = [arrays[name] for arrays in correct]
            where = f"{case.name}, {name}"
            ratio = rms.rms_ratio(where, value, true[name], others, torch.get(name))
            ratio = ratio._replace(in_mean=case.largest_c == 1)
            self.findings.add_ratio("gradients" if name.startswith("d ") else "results", ratio)

    def check_steps(self, cases: Sequence[Case]) -> Iterator[Item]:
        """Yield the item of the step residual, measured over the steps of some cases."""
        if self.tolerance is not None:
            return
        name = "step residual"
        if not self.port.takes_state:
            yield Item(name, None, detail="the port takes no initial_state")
            return
        run = functools.partial(self._run_port, dtype=self.dtype, gradients=False)
        try:
            worst = step_residual(run, self.params, self.config, cases, self.dtype)
        except PORT_EXCEPTIONS as error:
            yield Item(name, False, detail=describe(error))
            return
        if worst is None:
            detail = "the port does not return both h_n and c_n in their shapes"
            yield Item(name, None, detail=detail)
        else:
            yield Item(name, worst.value < 1, worst.value, worst.limit, f"worst: {worst.where}")

    def truth(self, params: Mapping[str, Any], case: Case, gradients: bool) -> Results:
        """Return the float64 reference: the oracle, or torch if the oracle is not a reference."""
        if "oracle" in self.references:
            return oracle_results(params, self.config, case, gradients=gradients)
        return torch_runner.run(params, self.config, case, np.float64, gradients=gradients)

    def _run_torch(self, case: Case, dtype: Any, gradients: bool) -> Results:
        return torch_runner.run(self.params, self.config, case, dtype, gradients=gradients)

    def _keep(self, which: str, case: Case, params: Mapping[str, Any], ours: Results) -> None:
        if np.isfinite(case.inputs).all():
            self.evidence[which].append(Evidence(case, params, ours))

    def _run_port(self, case: Case, dtype: Any, gradients: bool) -> Results:
        """Run the port, without gradients once JAX has failed to differentiate it."""
        run = functools.partial(self.port.run, self.params, case, dtype, precision=self.precision)
        if gradients and not self.not_differentiable:
            try:
                return run(gradients=True)
            except (TracerArrayConversionError, ConcretizationTypeError) as error:
                self.not_differentiable = f"JAX cannot differentiate the port: {describe(error)}"
        return run()
