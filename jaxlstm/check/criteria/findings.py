"""The outcomes of a verification by criterion and case, and the report items that summarize them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxlstm.check.criteria.criterion import Criterion, Measurement, Outcome, Untested, place, worst_of
from jaxlstm.check.criteria.rms import mean_ratio
from jaxlstm.check.report.item import Item

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
    values = [value for found in cases.values() for value in found]
    if isinstance(values[0], Untested):
        return {"ok": None, "detail": values[0].reason}
    if criterion.total is not None:
        total = criterion.total(values)
        # The ratios are listed once, by the mean.
        listed = values if criterion.total is mean_ratio else []
        data = {"arrays": {r.where: {**r._asdict(), "ratio": r.value} for r in listed}}
        return _measured(total, total.ok, total.where, data)
    if isinstance(values[0], Measurement):
        return _of_measurements(cases)
    return _of_problems(cases)


def _of_problems(cases: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    problems = {case: [problem for problem in found if problem] for case, found in cases.items()}
    failed = [case for case, found in problems.items() if found]
    detail = f"{len(problems)} cases" if len(problems) > 1 else ""
    if failed:
        first, *others = problems[failed[0]]
        more = f", and {len(others)} more" if others else ""
        start = f"{failed[0]}: " if failed[0] else ""
        detail = f"{start}{first}{more}{_failed_cases(failed, len(problems))}"
    return {"ok": not failed, "detail": detail, "data": {"cases": problems}}


def _of_measurements(cases: Mapping[str, Sequence[Measurement]]) -> dict[str, Any]:
    numbers = {case: worst_of(found) for case, found in cases.items()}
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
