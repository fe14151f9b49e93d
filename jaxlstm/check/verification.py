"""A verification in progress: runs the subject and its references on each case and collects the findings.

The criteria measure and decide; this module only decides what runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from jaxlstm.check.cases.case import Case, Results
from jaxlstm.check.criteria import accuracy
from jaxlstm.check.criteria.criterion import Criterion, Findings
from jaxlstm.check.exceptions import PORT_EXCEPTIONS, PortError, describe
from jaxlstm.check.reference.oracle_lstm import OracleLSTM
from jaxlstm.check.reference.program import Reference
from jaxlstm.check.report.item import Item
from jaxlstm.check.subjects.model import Subject


class Evidence(NamedTuple):
    """The results of the subject on a case, and the true results in float64.

    ``position`` is the position of the case among those tried.
    """

    case: Case
    results: Results
    truth: Results
    position: int = 0


@dataclass
class Verification:
    """A subject, the references that it should equal, and the findings so far.

    Attributes:
      references: each is compared in float64. The last one is the truth, from which RMS errors are measured.
      criteria: the criteria in the order of the report.
      tolerance: (rtol, atol) set by the caller, or None for the criteria.
      run_float64: if true, the subject also runs in float64.
      float64_refusal: the reason why float64 runs are not judged, or an empty string.
      sizes: the reason why the model ran at the sizes of the example only, or an empty string.
      chaotic: by case, the amplification of one ulp, for cases whose RMS errors are not compared.
      refused: by case, the exception of the subject on an optional case.
      evidence: the results in float64 and in the working dtype, by "float64" and "working".
      first_failure: the position of the first case on which a criterion failed.
    """

    subject: Subject
    references: Sequence[Reference]
    criteria: Sequence[Criterion]
    dtype: np.dtype
    seed: int
    gradients: bool
    tolerance: tuple[float, float] | None = None
    run_float64: bool = True
    float64_refusal: str = ""
    sizes: str = ""
    findings: Findings = field(default_factory=Findings)
    chaotic: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    evidence: dict[str, list[Evidence]] = field(default_factory=lambda: {"float64": [], "working": []})
    tried: list[Case] = field(default_factory=list)
    first_failure: int | None = None

    def __post_init__(self) -> None:
        """Take the last reference as the truth, with the oracle's parameters rounded to the working dtype."""
        self.truth = self.rounded = self.references[-1]
        if isinstance(self.truth, OracleLSTM):
            self.rounded = self.truth.rounded(self.dtype)

    def try_case(self, case: Case) -> Trial:
        """Run the subject on one case and record the findings."""
        self.tried.append(case)
        trial = Trial(self, case)
        if trial.error is not None and case.optional:
            self.refused[case.name] = describe(trial.error)
            return trial
        self._judge("on calls", trial, case.name)
        if trial.error is None:
            self._judge("on results", trial, case.name)
            evidence = self.evidence["working"] if case.compared != "NaN" else []
            evidence.append(Evidence(trial.rounded, trial.ours, trial.truth, trial.position))
        if self.first_failure is None and self.findings.failed:
            self.first_failure = trial.position
        return trial

    def judge_as_a_whole(self) -> None:
        """Judge all cases together."""
        self._judge("at the end", self, "")

    def items(self) -> Iterator[Item]:
        """Yield every item of the report."""
        yield from self.findings.items()
        for case, problem in self.refused.items():
            premise = "torch takes this case, " if self.subject.noun == "model" else ""
            yield Item(case, None, detail=f"{premise}the {self.subject.noun} raised {problem}", id="refused")
        if self.float64_refusal:
            yield Item("float64 semantics", None, detail=self.float64_refusal, id="float64")
        if self.sizes and not self.findings.failed:
            yield Item("other sizes", None, detail=self.sizes, id="sizes")
        for name, reason in self.subject.untested(self.gradients):
            yield Item(name, None, detail=reason, id="untested")

    def _judge(self, stage: str, subject: Trial | Verification, case: str) -> None:
        for criterion in self.criteria:
            for outcome in criterion.judge(subject) if criterion.judged == stage else ():
                self.findings.add(criterion, case, outcome)


class Trial:
    """The runs of one case, each made when a criterion first asks for it.

    Attributes:
      check: the verification.
      position: the position of the case among those tried.
      case: the case without arguments that the subject does not take.
      rounded: the case in the working dtype.
      ours: the results of the subject in the working dtype.
      error: the exception of the subject, which then has no results; or None.
    """

    def __init__(self, check: Verification, case: Case) -> None:
        """Run the subject in the working dtype."""
        self.check, self.error, self.ours = check, None, Results({})
        self.position = len(check.tried) - 1
        self._computed: dict[Callable[[Trial], Any], Any] = {}
        self.case = check.subject.adapt(case)
        in_float64 = check.run_float64 and not check.float64_refusal and check.tolerance is None
        # The numbers are judged in float64 only.
        self.only_float64 = in_float64 and case.compared == "values"
        self.with_gradients = check.gradients and case.differentiate
        in_working_dtype = case.compared == "all" or not in_float64
        self.rounded = self.case.astype(check.dtype)
        try:
            self.ours = self._run(self.rounded, check.dtype, in_working_dtype)
        except PortError:
            raise
        except PORT_EXCEPTIONS as error:
            self.error = error
            return
        if in_working_dtype:
            self.with_gradients = self.ours.gradients is not None
        self.ours = check.subject.comparable(self.ours, self.rounded, lambda: self.truth)
        missing = self.case.cotangents.keys() & check.subject.optional_outputs - self.ours.outputs.keys()
        zeros = {name: np.zeros_like(self.case.cotangents[name]) for name in missing}
        self.case, self.rounded = (
            dataclasses.replace(c, cotangents={**c.cotangents, **zeros}) for c in (self.case, self.rounded)
        )

    def _run(self, case: Case, dtype: Any, gradients: bool = True) -> Results:
        return self.check.subject.run(case, dtype, gradients=gradients and self.with_gradients)

    def again(self) -> Results:
        """Run the subject once more."""
        return self._run(self.rounded, self.check.dtype)

    @cached_property
    def truth(self) -> Results:
        """The float64 results of the reference for arguments in the working dtype."""
        return self.check.rounded.run(self.rounded, np.float64, gradients=self.with_gradients)

    @cached_property
    def references(self) -> list[Reference]:
        """The references that take the case: torch cannot pack a sequence of length 0."""
        lengths = self.case.seq_lengths
        packs = lengths is None or bool(lengths.all())
        return [r for r in self.check.references if packs or r.name != "torch"]

    @cached_property
    def expected(self) -> Results:
        """Right results in the working dtype: the run of a module or program, or else the rounded truth."""
        reference = self.check.rounded
        if not isinstance(reference, OracleLSTM):
            return reference.run(self.rounded, self.check.dtype, gradients=self.ours.gradients is not None)
        with np.errstate(over="ignore"):
            return self.truth.astype(self.check.dtype)

    @cached_property
    def truth64(self) -> Results:
        """The float64 results of the reference for arguments that are not rounded."""
        if self.check.truth is self.check.rounded:
            return self.truth
        return self.theirs(self.check.truth, np.float64)

    def theirs(self, reference: Reference, dtype: Any) -> Results:
        """Run a reference in ``dtype``."""
        if reference is self.check.rounded and np.dtype(dtype) == self.check.dtype:
            return self.expected  # The run of a torch module in its own dtype is the expected result.
        case = self.case if np.dtype(dtype) == np.float64 else self.rounded
        return reference.run(case, dtype, gradients=self.with_gradients)

    @cached_property
    def aligned(self) -> Results:
        """Our results, with the gradients under the names and in the order of the reference.

        Where float64 results settle which parameters correspond, they do so first.
        """
        return self.check.subject.aligned(self.ours, self.truth, resolve=self.aligned64 is None)

    @cached_property
    def ours64(self) -> Results | None:
        """The results of the subject in float64, or None if it does not run in float64."""
        check = self.check
        if check.tolerance is not None or not check.run_float64 or check.float64_refusal:
            return None
        ours = self.ours
        if check.dtype != np.float64 or check.subject.has_float64_copy:
            try:
                ours = check.subject.run_float64(self.case, gradients=self.with_gradients)
            except PORT_EXCEPTIONS as error:
                problem = f"raised for float64 inputs: {describe(error)}"
            else:
                wrong_dtype = check.subject.other_dtype(ours, np.float64)
                problem = f"returned {wrong_dtype} for float64 inputs" if wrong_dtype else ""
            if problem:
                check.float64_refusal = f"the {check.subject.noun} {problem}"
                return None
        ours = check.subject.comparable(ours, self.case, lambda: self.truth64)
        evidence = check.evidence["float64"] if self.case.compared != "NaN" else []
        evidence.append(Evidence(self.case, ours, self.truth64, self.position))
        return ours

    def _form(self, ours: Results, expected: Results, *, dtypes: bool = True) -> str:
        subject = self.check.subject
        problem = accuracy.names(subject.noun, ours, expected, subject.optional_outputs)
        return problem or accuracy.shape_and_dtype(ours, expected, dtypes=dtypes)

    @cached_property
    def form(self) -> str:
        """The results of wrong name, shape or dtype, in words."""
        return self._form(self.ours, self.expected)

    @cached_property
    def mask(self) -> str:
        """The NaN and infinities that are not where they should be, in words."""
        return accuracy.nan_mask(self.ours, self.expected, whole=self.case.compared == "NaN")

    @cached_property
    def is_usable(self) -> bool:
        """True if the numbers can be compared: shapes, NaN and infinities are right."""
        return self.has_shapes and not self.mask and self.case.compared != "NaN"

    @cached_property
    def has_shapes(self) -> bool:
        """True if every result has the name and the shape of the reference's."""
        return not self._form(self.ours, self.expected, dtypes=False)

    @cached_property
    def form64(self) -> str:
        """The float64 results of wrong name, shape or dtype, in words.

        The dtypes of a float64 copy are not compared: torch may return some results in another dtype.
        """
        if self.ours64 is None:
            return ""
        return self._form(self.ours64, self.truth64, dtypes=not self.check.subject.has_float64_copy)

    @cached_property
    def mask64(self) -> str:
        """The same in float64."""
        if self.ours64 is None or self.form64:
            return ""
        return accuracy.nan_mask(self.ours64, self.truth64, whole=self.case.compared == "NaN")

    @cached_property
    def aligned64(self) -> Results | None:
        """Our float64 results like :attr:`aligned`, or None without comparable ones."""
        if self.ours64 is None or self.form64 or self.mask64 or self.case.compared == "NaN":
            return None
        return self.check.subject.aligned(self.ours64, self.truth64, resolve=True)

    def once(self, compute: Callable[[Trial], Any]) -> Any:
        """Return ``compute(trial)``, computed once for all criteria."""
        if compute not in self._computed:
            self._computed[compute] = compute(self)
        return self._computed[compute]
