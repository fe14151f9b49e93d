"""One verification under way: the port is run on each case, and what is found is gathered.

Nothing is decided here: the criteria measure, and the findings come to items.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import ml_dtypes
import numpy as np
from jax.errors import ConcretizationTypeError, TracerArrayConversionError

from jaxlstm.check import answer, criteria, residual, torch_runner
from jaxlstm.check.answer import Answer
from jaxlstm.check.comparison import difference
from jaxlstm.check.divergence import trace_port
from jaxlstm.check.explain import Evidence
from jaxlstm.check.findings import Findings
from jaxlstm.check.inputs import Case, ordinary_case
from jaxlstm.check.place import Difference
from jaxlstm.check.port import Port, PortError, default_device, lacks_float64
from jaxlstm.check.raised import RAISED, in_words
from jaxlstm.check.report import Item, Picture
from jaxlstm.config import LSTMConfig


@dataclass
class Run:
    """A port, what it should be, and by what it is judged."""

    port: Port
    params: dict[str, np.ndarray]
    config: LSTMConfig
    dtype: np.dtype
    seed: int
    gradients: bool
    references: tuple[str, ...]
    tolerance: tuple[float, float] | None
    precision: str | None
    only_working: bool = False  # leave out the run in float64
    refusal: str = ""  # why the port cannot be run in float64; empty if it can
    opaque: str = ""  # why JAX cannot differentiate the port; empty if it can
    findings: Findings = field(default_factory=Findings)
    evidence: dict[str, list[Evidence]] = field(
        default_factory=lambda: {"float64": [], "working": []}
    )
    conditions: dict[str, dict[str, float]] = field(default_factory=dict)  # by case
    chaotic: dict[str, float] = field(default_factory=dict)  # case -> how many times an ulp grows
    nan: tuple[Case, Answer, Answer] | None = None  # the case with NaN, its answer and the true one

    def try_case(self, case: Case) -> None:
        """Judge the port on one case."""
        case = self.port.adapt(case)
        gradients = self.gradients and case.differentiate
        rounded = case.astype(self.dtype)
        params = {name: a.astype(self.dtype) for name, a in self.params.items()}
        try:
            ours = self._ask(rounded, self.dtype, gradients)
        except PortError:
            raise
        except RAISED as error:
            self.findings.exact("runs", case, in_words(error))
            return
        self.findings.exact("runs", case, "")
        if self.tolerance is None and not self.only_working:
            self._semantics(case, gradients)
        truth = self.truth(params, rounded, gradients)
        self._keep("working", rounded, params, ours)
        self.findings.exact("shape and dtype", case, criteria.form(ours, truth, self.dtype))
        if criteria.form(ours, truth, ours.outputs.dtype):
            return  # shapes that differ leave nothing to measure
        if not np.isfinite(case.inputs).all():
            self.nan = rounded, ours, truth
        problem = criteria.masks(ours, truth)
        self.findings.exact("NaN mask", case, problem)
        if problem:
            return  # nor do NaN and numbers
        if case.name == "ragged":
            again = self._ask(rounded, self.dtype, gradients)
            self.findings.exact("repeatable", case, criteria.repeats(ours, again))
        if self.tolerance is not None:
            self._within_tolerance(case, ours, truth, self.tolerance)
        elif self.dtype != np.float64:
            self._precision(params, rounded, ours, truth)

    def _semantics(self, case: Case, gradients: bool) -> None:
        """The port in float64 against each reference in float64."""
        if self.refusal:
            return
        try:
            ours = self._ask(case, np.float64, gradients)
        except RAISED as error:
            self.refusal = f"the port refused float64 inputs: {in_words(error)}"
            return
        if ours.outputs.dtype != np.float64 and self.dtype != np.float64:
            self.refusal = f"the port answered float64 inputs in {ours.outputs.dtype}"
            return
        truth = self.truth(self.params, case, gradients)
        self._keep("float64", case, self.params, ours)
        if problem := criteria.form(ours, truth, np.float64):
            self.findings.exact("shape and dtype", case, f"in float64, {problem}")
            return
        if problem := criteria.masks(ours, truth):
            self.findings.exact("NaN mask", case, f"in float64, {problem}")
            return
        condition = self._condition(self.params, case, truth, gradients)
        for reference in self.references:
            theirs = truth if reference == "oracle" else self._torch(case, np.float64, gradients)
            self.findings.measured(
                f"float64 semantics against {reference}",
                case,
                criteria.semantics(ours, theirs, condition),
            )
            if ours.gradients and theirs.gradients:
                found = criteria.gradient_semantics(ours.gradients, theirs.gradients, condition)
                self.findings.measured(f"float64 gradients against {reference}", case, found)

    def _condition(
        self, params: Mapping[str, Any], case: Case, truth: Answer, gradients: bool
    ) -> dict[str, float]:
        """How far each array moves when every number moves by one ulp, of two trials the further."""
        if case.name not in self.conditions:
            rng = np.random.default_rng([self.seed, 99])
            trials = [
                criteria.furthest(
                    criteria.moved(params, self.config, case, rng, gradients=gradients), truth
                )
                for _ in range(2)
            ]
            self.conditions[case.name] = {n: max(t[n] for t in trials) for n in trials[0]}
        return self.conditions[case.name]

    def _precision(
        self, params: Mapping[str, Any], case: Case, ours: Answer, truth: Answer
    ) -> None:
        """Errors to float64 beside those of torch and of the equations in NumPy."""
        gradients = ours.gradients is not None
        grown = criteria.amplification(self._condition(params, case, truth, gradients), truth)
        if not grown <= criteria.CHAOTIC:
            self.chaotic[case.name] = grown
            return
        right = [
            found.everything()
            for found in criteria.right_answers(
                params, self.config, case, self.dtype, gradients=gradients
            )
        ]
        torch = {}
        if "torch" in self.references:
            torch = self._torch(case, self.dtype, gradients).everything()
        true = truth.everything()
        for name, value in ours.everything().items():
            where, others = f"{case.name}, {name}", [found[name] for found in right]
            ratio = criteria.rms_ratio(where, value, true[name], others, torch.get(name))
            self.findings.ratio("gradients" if name.startswith("d ") else "results", ratio)

    def _within_tolerance(
        self, case: Case, ours: Answer, truth: Answer, tolerance: tuple[float, float]
    ) -> None:
        """Every array against the float64 truth, by the caller's tolerance."""
        rtol, atol = tolerance
        true = truth.everything()
        for name, value in ours.everything().items():
            found = difference(value, true[name], rtol=rtol, atol=atol, equal_nan=True)
            problem = f"{name}: {found}" if found.mismatched else ""
            self.findings.exact("within the tolerance", case, problem)

    def residual(self, chosen: Sequence[Case]) -> Iterator[Item]:
        """The step residual, over the steps of some cases."""
        if self.tolerance is not None:
            return
        name = "step residual"
        if not self.port.takes_state:
            yield Item(name, None, detail="the port takes no initial state")
            return
        try:
            found = residual.step_residual(
                self.port, self.params, self.config, chosen, self.dtype, precision=self.precision
            )
        except RAISED as error:
            yield Item(name, False, detail=in_words(error))
            return
        if found is None:
            yield Item(
                name, None, detail="the port does not tell both h_n and c_n, in their shapes"
            )
        else:
            yield Item(name, found.ratio < 1, found.ratio, 1.0, f"worst: {found.where}")

    def pictures(self) -> Iterator[Picture]:
        """The error in the working dtype over time and units, in the first case and the longest."""
        rounding = float(ml_dtypes.finfo(self.dtype).eps)
        reverse = f"; units from {self.config.h_size} on: reverse"
        for evidence in self.evidence["working"]:
            if evidence.case.name not in ("ragged", "long"):
                continue
            truth = self.truth(evidence.params, evidence.case, False).outputs
            ours = evidence.answer.outputs
            if ours.shape == truth.shape:
                error = np.abs(ours.astype(np.float64) - truth).max(axis=1)
                title = f"{evidence.case.name}: error of the outputs, the largest over the batch"
                title += reverse * self.config.bidirectional
                yield Picture(title, "time", "unit", error.T.tolist(), weakest=rounding / 10)

    @cached_property
    def difference(self) -> Difference | None:
        """Where the port first leaves the oracle, in float64 if it can be run in that."""
        case = ordinary_case(self.config, self.seed)
        dtype = "float64" if self.evidence["float64"] else self.dtype
        try:
            return trace_port(
                self.port, self.params, self.config, case, dtype, precision=self.precision
            )
        except RAISED:  # told by the item "runs"
            return None

    def untested(self) -> Iterator[Item]:
        """What the port cannot be asked."""
        if not self.port.takes_lengths:
            yield Item("ragged lengths", None, detail="the port takes no seq_lengths")
        if not self.port.takes_state:
            yield Item("initial state", None, detail="the port takes no initial_state")
        if self.opaque:
            yield Item("gradients", None, detail=self.opaque)
        elif self.gradients and not self.port.takes_params:
            detail = "the port holds its own weights; give it a parameter named params"
            yield Item("gradients of parameters", None, detail=detail)
        if self.refusal:
            yield Item("float64 semantics", None, detail=self.refusal)

    def notes(self, against: Sequence[str]) -> Iterator[str]:
        """What a reader must know to weigh the verdict."""
        if "torch" in against and "torch" not in self.references:
            yield "torch is not installed: judged against the oracle alone"
        if strange := [name for name, a in self.params.items() if not np.isfinite(a).all()]:
            yield f"NaN or infinity in {', '.join(strange)}: the same is wanted of what follows from it"
        if lacks_float64(default_device()):
            yield "in float64 the port ran on the CPU, since this device has no float64 of its own"
        for case, grown in self.chaotic.items():
            yield (
                f"{case}: one ulp grows {grown:.0e} times with these weights, so that RMS errors there "
                "are luck and were left out; the step residual judges"
            )
        if self.tolerance is not None:
            rtol, atol = self.tolerance
            yield f"tolerances were set by the caller: rtol={rtol:g}, atol={atol:g}"

    def truth(self, params: Mapping[str, Any], case: Case, gradients: bool) -> Answer:
        """The float64 reference on given numbers: the oracle's, or torch's if the oracle is not asked."""
        if "oracle" in self.references:
            return answer.of_oracle(params, self.config, case, gradients=gradients)
        return torch_runner.run(params, self.config, case, np.float64, gradients=gradients)

    def _torch(self, case: Case, dtype: Any, gradients: bool) -> Answer:
        return torch_runner.run(self.params, self.config, case, dtype, gradients=gradients)

    def _keep(self, which: str, case: Case, params: Mapping[str, Any], ours: Answer) -> None:
        """Remember an answer as evidence for a diagnosis."""
        if np.isfinite(case.inputs).all():
            self.evidence[which].append(Evidence(case, params, ours))

    def _ask(self, case: Case, dtype: Any, gradients: bool) -> Answer:
        if gradients and not self.opaque:
            try:
                return self.port.run(
                    self.params, case, dtype, gradients=True, precision=self.precision
                )
            except (TracerArrayConversionError, ConcretizationTypeError) as error:
                self.opaque = f"JAX cannot differentiate the port: {in_words(error)}"
        return self.port.run(self.params, case, dtype, precision=self.precision)
