"""A criterion, the outcomes of judging cases by it, and the report items that summarize them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxlstm.check.report.item import Item

Kind = Literal["exact", "semantic", "precision", "gradient"]


class Measurement(NamedTuple):
    """A measured value, its limit, and the place of the worst element."""

    value: float
    limit: float
    where: str

    @property
    def ok(self) -> bool:
        """True if the value is within its limit. NaN is not."""
        return self.value <= self.limit

    @property
    def excess(self) -> float:
        """The value in units of its limit."""
        return self.value / self.limit if self.limit else np.inf * self.value


class RmsRatio(NamedTuple):
    """The RMS error of one array of one case, of the subject and of right implementations.

    ``in_mean`` is False for a case with large cell states, where right implementations differ widely, and for
    cases that are not compared in every respect.
    """

    where: str
    size: int
    ours: float
    torch: float | None
    own: float
    in_mean: bool = True

    @property
    def value(self) -> float:
        """The subject's error divided by the error of right implementations."""
        return self.ours / self.own if self.own else (np.inf if self.ours else 1.0)


@dataclass(frozen=True)
class Untested:
    """The reason why a criterion cannot be judged."""

    reason: str


class Outcome(NamedTuple):
    """The outcome of one case.

    Attributes:
      value: a problem in words, empty if there is none; a measurement; an RMS ratio; or why it is untested.
      against: the name of the reference, if the criterion is judged against each of them.
    """

    value: str | Measurement | RmsRatio | Untested
    against: str = ""


@dataclass(frozen=True)
class Criterion:
    """A property of a right subject.

    Attributes:
      id: identifies the criterion in JSON and in the diagnosis.
      kind: what fails: "exact" for shapes, dtypes and NaN; "semantic" for the equations; "precision" for
        rounding; "gradient" for the derivative.
      text: the name of its item in reports.
      judge: yields the outcomes of a :class:`~jaxlstm.check.verification.Trial`.
      judged: "on results" of every case; "on calls", even if the subject raised an exception; or "at the
        end", when ``judge`` takes the whole :class:`~jaxlstm.check.verification.Verification`.
      total: combines the RMS ratios of all cases.
      lists_ratios: the data of the item have these ratios.
    """

    id: str
    kind: Kind
    text: str
    judge: Callable[[Any], Iterable[Outcome]]
    judged: Literal["on results", "on calls", "at the end"] = "on results"
    total: Callable[[Sequence[RmsRatio]], Measurement] | None = None
    lists_ratios: bool = True


def worst_of(measurements: Iterable[Measurement]) -> Measurement:
    """Return the measurement with the largest excess; NaN counts as infinite."""
    return max(measurements, key=lambda m: np.inf if np.isnan(m.value) else m.excess)


def place(case: str, where: str) -> str:
    """Return the case and the place within it, in words."""
    return ", ".join(part for part in (case, where) if part)


Cases = dict[str, list[Any]]
"""The values of the outcomes by case."""


class Findings:
    """The outcomes so far."""

    def __init__(self) -> None:
        """Start without outcomes."""
        self._outcomes: dict[tuple[Criterion, str], Cases] = {}

    def add(self, criterion: Criterion, case: str, outcome: Outcome) -> None:
        """Record the outcome of a criterion on a case."""
        cases = self._outcomes.setdefault((criterion, outcome.against), {})
        cases.setdefault(case, []).append(outcome.value)

    @property
    def failed(self) -> bool:
        """True if a criterion failed."""
        return any(item.ok is False for item in self.items())

    def items(self) -> Iterator[Item]:
        """Yield one report item for each criterion and reference. Its data hold every case."""
        for (criterion, against), cases in self._outcomes.items():
            name = f"{criterion.text} against {against}" if against else criterion.text
            id_ = f"{criterion.id}-{against}" if against else criterion.id
            yield Item(name, **_summary(criterion, cases), id=id_, kind=criterion.kind)


def _summary(criterion: Criterion, cases: Cases) -> dict[str, Any]:
    """Return the fields of an item."""
    values = [value for measured in cases.values() for value in measured]
    if isinstance(values[0], Untested):
        return {"ok": None, "detail": values[0].reason}
    if criterion.total is not None:
        total = criterion.total(values)
        listed = values if criterion.lists_ratios else []
        data = {"arrays": {r.where: {**r._asdict(), "ratio": r.value} for r in listed}}
        return _measured(total, total.ok, total.where, data)
    if isinstance(values[0], Measurement):
        return _of_measurements(cases)
    return _of_problems(cases)


def _of_problems(cases: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    problems = {case: [problem for problem in messages if problem] for case, messages in cases.items()}
    failed = [case for case, messages in problems.items() if messages]
    detail = f"{len(problems)} cases" if len(problems) > 1 else ""
    if failed:
        first, *others = problems[failed[0]]
        more = f", and {len(others)} more" if others else ""
        start = f"{failed[0]}: " if failed[0] else ""
        detail = f"{start}{first}{more}{_failed_cases(failed, len(problems))}"
    return {"ok": not failed, "detail": detail, "data": {"cases": problems}}


def _of_measurements(cases: Mapping[str, Sequence[Measurement]]) -> dict[str, Any]:
    numbers = {case: worst_of(measured) for case, measured in cases.items()}
    worst = worst_of(numbers.values())
    case = next(name for name, number in numbers.items() if number is worst)
    failed = [name for name, number in numbers.items() if not number.ok]
    detail = f"worst: {place(case, worst.where)}{_failed_cases(failed, len(numbers))}"
    data = {"cases": {name: number._asdict() for name, number in numbers.items()}}
    return _measured(worst, not failed, detail, data)


def _measured(number: Measurement, ok: bool, detail: str, data: Mapping[str, Any]) -> dict[str, Any]:
    return {"ok": ok, "measured": number.value, "limit": number.limit, "detail": detail, "data": data}


def _failed_cases(failed: Sequence[str], total: int) -> str:
    if not failed or failed == [""]:
        return ""
    if len(failed) == total > 2:
        return f"; fails in all {total} cases"
    return f"; fails in {', '.join(failed)}"
