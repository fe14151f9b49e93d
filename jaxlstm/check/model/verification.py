"""A verification of a model in progress: runs both models on each case and collects the findings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from jaxlstm._shared.table import format_number
from jaxlstm.check.criteria import exact, semantics
from jaxlstm.check.criteria.findings import Findings
from jaxlstm.check.criteria.measurement import largest_errors
from jaxlstm.check.exceptions import PORT_EXCEPTIONS, describe
from jaxlstm.check.model.comparison import relative_error, same_shapes, structure_problem
from jaxlstm.check.model.layout import pair_parameters
from jaxlstm.check.model.names import ModuleNames
from jaxlstm.check.model.ours import OurModel, OurRunner
from jaxlstm.check.model.results import ModelCase, ModelResults
from jaxlstm.check.model.rounding import Rounding
from jaxlstm.check.reference.torch_model import TorchModel

Array = np.ndarray

SINGLE = 16 * float(np.finfo(np.float32).eps)
"""Relative error that a float32 part leaves in float64 results."""

TABLE_FACTOR = 2.0
"""Largest error in float64 in units of the effect of one ulp in every number of torch's tables."""


@dataclass
class ModelVerification:
    """A model, the torch module that it should equal, and the findings so far.

    Attributes:
      tolerance: (rtol, atol) set by the caller, or None for the criteria.
      pairing: the layout of each parameter of the model.
      float64_refusal: the reason why the model cannot run in float64, or an empty string.
      casts: the lines at which the model in float64 converts numbers to float32; None if not determined.
      first_failure: the first case on which a criterion failed.
      refused: by case, the exception of the model where torch takes the case.
      evidence, working_evidence: cases and the model's results on them, in float64 and in the working dtype.
      truths: torch's results in float64, by case.
    """

    ours: OurModel
    theirs: TorchModel
    example: ModelCase
    names: ModuleNames
    gradients: bool
    tolerance: tuple[float, float] | None
    precision: str | None
    seed: int
    findings: Findings = field(default_factory=Findings)
    float64_refusal: str = ""
    casts: list[str] | None = None
    first_failure: ModelCase | None = None
    refused: dict[str, str] = field(default_factory=dict)
    evidence: list[tuple[ModelCase, ModelResults]] = field(default_factory=list)
    working_evidence: list[tuple[ModelCase, ModelResults]] = field(default_factory=list)
    truths: dict[str, ModelResults] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Pair the parameters and prepare the model in the working dtype and in float64."""
        self.rounding = Rounding(self.theirs, self.seed)
        self.working = OurRunner(
            self.ours, self.example, self.theirs.dtype, cast_model=False, precision=self.precision
        )
        self.float64 = OurRunner(
            self.ours, self.example, np.float64, cast_model=True, precision=self.precision
        )
        self.pairing = pair_parameters(self.working.call.params, self.theirs.params(), self.names.same_module)
        exact_params = {n: p.astype(np.float64) for n, p in self.theirs.params().items()}
        for name, (a, b) in self.pairing.summed().items():
            index = self.pairing.choices[name][0][0].index
            self.float64.set_param(name, (exact_params[a] + exact_params[b]).ravel()[index])

    def try_case(self, case: ModelCase) -> None:
        """Run both models on one case and record the findings."""
        case = case.astype(self.theirs.dtype)
        truth = self.theirs.run(case, np.float64)
        # Compiling the gradients for other sizes would take most of the time of a check.
        with_gradients = self.gradients and case.shapes() == self.example.shapes()
        cotangents = self._cotangents(truth) if with_gradients else None
        if cotangents:
            truth = self.theirs.run(case, np.float64, cotangents=cotangents)
        try:
            ours = self.working.run(case, cotangents)
        except PORT_EXCEPTIONS as error:
            self._record_exception(case, describe(error))
            return
        self.findings.add_problem("runs", case.name, "")
        self.working_evidence.append((case, ours))
        self.truths[case.name] = truth
        in_float64 = self._run_float64(case, cotangents) if self.tolerance is None else None
        theirs = self.theirs.run(case, self.theirs.dtype, cotangents=cotangents)
        problem = structure_problem(ours, theirs) or exact.shape_and_dtype(ours, theirs)
        self.findings.add_problem("shape and dtype", case.name, problem)
        if not same_shapes(ours, theirs):
            return
        if in_float64 is not None:
            self._check_float64(case, in_float64, truth, cotangents)
        ours = self.aligned(ours, truth)
        problem = exact.nan_mask(ours, theirs)
        self.findings.add_problem("NaN mask", case.name, problem)
        if problem:
            return
        if self.tolerance is not None:
            self.findings.add_tolerance(case.name, ours.arrays(), truth.arrays(), self.tolerance)
        elif self.theirs.dtype != np.float64:
            for ratio in self.rounding.ratios(case, ours, theirs, truth, cotangents):
                kind = "gradients" if ratio.where.startswith(f"{case.name}, d ") else "results"
                self.findings.add_ratio(kind, ratio)

    def _record_exception(self, case: ModelCase, problem: str) -> None:
        if case.name == self.example.name:
            self.findings.add_problem("runs", case.name, problem)
        else:
            self.refused[case.name] = problem

    def _run_float64(self, case: ModelCase, cotangents: Mapping[str, Array] | None) -> ModelResults | None:
        """Run the model in float64 and keep the results; return None if it cannot run in float64."""
        if self.float64_refusal:
            return None
        try:
            ours = self.float64.run(case, cotangents)
        except PORT_EXCEPTIONS as error:
            self.float64_refusal = f"the model raised for float64 arguments: {describe(error)}"
            return None
        if wrong := [a.dtype for a in ours.floating().outputs.values() if a.dtype != np.float64]:
            self.float64_refusal = f"the model returned {wrong[0]} for float64 arguments"
            return None
        self.evidence.append((case, ours))
        return ours

    def _check_float64(
        self, case: ModelCase, ours: ModelResults, truth: ModelResults, cotangents: Mapping[str, Array] | None
    ) -> None:
        """Compare both models in float64."""
        if problem := exact.nan_mask(ours, truth):
            self.findings.add_problem("NaN mask", case.name, f"in float64, {problem}")
            return
        if ours.gradients and truth.gradients:
            self.pairing = self.pairing.resolve(ours.gradients, truth.gradients)
        ours = self.aligned(ours, truth)
        condition = self.rounding.condition(case, truth, cotangents)
        number = semantics.result_semantics(ours, truth, condition)
        if not number.ok and (
            self._computes_in_float32(case, ours, truth) or self._has_other_tables(case, ours, truth)
        ):
            return
        self.findings.add_measurement("float64 semantics against torch", case.name, number)
        if ours.gradients and truth.gradients:
            number = semantics.gradient_semantics(ours.gradients, truth.gradients, condition)
            self.findings.add_measurement("float64 gradients against torch", case.name, number)

    def _computes_in_float32(self, case: ModelCase, ours: ModelResults, truth: ModelResults) -> bool:
        """Return True if the model converts numbers to float32 and its error is not larger than that."""
        worst = relative_error(ours, truth)
        if self.casts is None:
            self.casts = self.float64.casts_to_float32(case)
        if not self.casts or not worst <= SINGLE:
            return False
        self.float64_refusal = (
            f"the model converts float64 to float32 in {', '.join(self.casts[:3])}; its error in float64, "
            f"{format_number(worst)}, is no larger than float32 rounding"
        )
        return True

    def _has_other_tables(self, case: ModelCase, ours: ModelResults, truth: ModelResults) -> bool:
        """Return True if the difference is no larger than the rounding of torch's tables to its dtype.

        A table, such as a positional encoding, is a buffer that a port often computes instead of reading it.
        """
        if not (names := self.theirs.tables()):
            return False
        other = self.theirs.run_with_other_tables(case, np.random.default_rng([self.seed, 101]))
        effect = largest_errors(other, truth._replace(gradients=None))
        errors = largest_errors(ours._replace(gradients=None), truth)
        if any(error > TABLE_FACTOR * effect[name] for name, error in errors.items()):
            return False
        self.float64_refusal = (
            f"torch rounded {', '.join(names[:3])} to {self.theirs.dtype}; the model's error in float64, "
            f"{format_number(relative_error(ours, truth))}, is no larger than the effect of that"
        )
        return True

    def _cotangents(self, truth: ModelResults) -> dict[str, Array]:
        """Return a random cotangent for each floating-point output."""
        rng = np.random.default_rng([self.seed, 1])
        outputs = truth.floating().outputs
        return {name: rng.standard_normal(a.shape).astype(self.theirs.dtype) for name, a in outputs.items()}

    def aligned(self, ours: ModelResults, truth: ModelResults) -> ModelResults:
        """Return our results with the gradients of parameters under torch's names."""
        if ours.gradients is None or truth.gradients is None:
            return ours._replace(gradients=None)
        gradients = {name: a for name, a in ours.gradients.items() if name in self.example.arrays_by_name()}
        gradients |= self.pairing.gradients(ours.gradients, truth.gradients)
        return ours._replace(gradients=gradients)
