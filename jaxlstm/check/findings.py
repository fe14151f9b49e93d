"""What a verification has found so far, criterion by criterion, and the items that it comes to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from jaxlstm.check import criteria
from jaxlstm.check.criteria import Measured, Ratio
from jaxlstm.check.inputs import Case
from jaxlstm.check.report import Item


@dataclass
class Findings:
    """By criterion and case: problems in words, measured numbers, and RMS errors."""

    problems: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    numbers: dict[str, dict[str, Measured]] = field(default_factory=dict)
    ratios: dict[str, list[Ratio]] = field(default_factory=dict)

    def exact(self, criterion: str, case: Case, problem: str) -> None:
        """A criterion that holds or not; ``problem`` is empty if it holds."""
        found = self.problems.setdefault(criterion, {}).setdefault(case.name, [])
        if problem:
            found.append(problem)

    def measured(self, criterion: str, case: Case, number: Measured) -> None:
        """A criterion with a limit."""
        self.numbers.setdefault(criterion, {})[case.name] = number

    def ratio(self, of: str, found: Ratio) -> None:
        """An RMS error, of "results" or "gradients"."""
        self.ratios.setdefault(of, []).append(found)

    def items(self) -> Iterator[Item]:
        """One item for each criterion; its data tell of every case."""
        for criterion, found in self.problems.items():
            failed = [case for case, problems in found.items() if problems]
            detail = f"{len(found)} cases" if len(found) > 1 else ""
            if failed:
                first, *others = found[failed[0]]
                more = f", and {len(others)} more" if others else ""
                detail = f"{failed[0]}: {first}{more}; fails in {', '.join(failed)}"
            yield Item(criterion, not failed, detail=detail, data={"cases": found})
        for criterion, numbers in self.numbers.items():
            worst = criteria.worst_of(numbers.values())
            case = next(name for name, number in numbers.items() if number is worst)
            failed = [name for name, number in numbers.items() if not number.ok]
            detail = f"worst: {case}, {worst.where}"
            if failed:
                detail += f"; fails in {', '.join(failed)}"
            data = {"cases": {name: number._asdict() for name, number in numbers.items()}}
            yield Item(criterion, not failed, worst.value, worst.limit, detail, data)
        for of, ratios in self.ratios.items():
            data = {"arrays": {r.where: {**r._asdict(), "ratio": r.value} for r in ratios}}
            for name, number in (
                (f"RMS error of {of}", criteria.rms(ratios)),
                (f"RMS error of {of}, worst array", criteria.rms_of_one(ratios)),
            ):
                yield Item(name, number.ok, number.value, number.limit, number.where, data)
                data = {}
