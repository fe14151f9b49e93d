"""The findings of a verification, by criterion, and the report items that summarize them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from jaxlstm.check.criteria import rms
from jaxlstm.check.criteria.measurement import Measurement, worst_of
from jaxlstm.check.criteria.rms import RmsRatio
from jaxlstm.check.criteria.tolerance import array_difference
from jaxlstm.check.report.data import Item


@dataclass
class Findings:
    """Problems and measurements by criterion and case, and RMS ratios by kind of array."""

    problems: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    measurements: dict[str, dict[str, Measurement]] = field(default_factory=dict)
    ratios: dict[str, list[RmsRatio]] = field(default_factory=dict)

    def add_problem(self, criterion: str, case: str, problem: str) -> None:
        """Record the outcome of a criterion without a limit. An empty ``problem`` means that it holds."""
        problems = self.problems.setdefault(criterion, {}).setdefault(case, [])
        if problem:
            problems.append(problem)

    def add_measurement(self, criterion: str, case: str, measurement: Measurement) -> None:
        """Record the outcome of a criterion with a limit."""
        self.measurements.setdefault(criterion, {})[case] = measurement

    def add_ratio(self, kind: str, ratio: RmsRatio) -> None:
        """Record an RMS ratio of "results" or "gradients"."""
        self.ratios.setdefault(kind, []).append(ratio)

    def add_tolerance(
        self,
        case: str,
        ours: Mapping[str, np.ndarray],
        truth: Mapping[str, np.ndarray],
        tolerance: tuple[float, float],
    ) -> None:
        """Compare every array with the float64 truth by the caller's tolerance (rtol, atol)."""
        rtol, atol = tolerance
        for name, value in ours.items():
            difference = array_difference(value, truth[name], rtol=rtol, atol=atol, equal_nan=True)
            problem = f"{name}: {difference}" if difference.mismatched else ""
            self.add_problem("within the tolerance", case, problem)

    def failed(self) -> set[str]:
        """Return the names of the report items that failed."""
        return {item.name for item in self.items() if item.ok is False}

    def items(self) -> Iterator[Item]:
        """Yield one report item for each criterion. Its data hold every case."""
        for criterion, problems in self.problems.items():
            yield _problem_item(criterion, problems)
        for criterion, measurements in self.measurements.items():
            yield _measurement_item(criterion, measurements)
        for kind, ratios in self.ratios.items():
            data = {"arrays": {r.where: {**r._asdict(), "ratio": r.value} for r in ratios}}
            for name, total in (
                (f"RMS error of {kind}", rms.mean_ratio(ratios)),
                (f"RMS error of {kind}, worst array", rms.worst_ratio(ratios)),
            ):
                yield Item(name, total.ok, total.value, total.limit, total.where, data)
                data = {}


def _problem_item(criterion: str, problems: Mapping[str, list[str]]) -> Item:
    failed = [case for case, found in problems.items() if found]
    detail = f"{len(problems)} cases" if len(problems) > 1 else ""
    if failed:
        first, *others = problems[failed[0]]
        more = f", and {len(others)} more" if others else ""
        detail = f"{failed[0]}: {first}{more}{_failed_cases(failed, len(problems))}"
    return Item(criterion, not failed, detail=detail, data={"cases": problems})


def _measurement_item(criterion: str, measurements: Mapping[str, Measurement]) -> Item:
    worst = worst_of(measurements.values())
    case = next(name for name, number in measurements.items() if number is worst)
    failed = [name for name, number in measurements.items() if not number.ok]
    detail = f"worst: {case}, {worst.where}{_failed_cases(failed, len(measurements))}"
    data = {"cases": {name: number._asdict() for name, number in measurements.items()}}
    return Item(criterion, not failed, worst.value, worst.limit, detail, data)


def _failed_cases(failed: Sequence[str], total: int) -> str:
    if not failed:
        return ""
    if len(failed) == total > 2:
        return f"; fails in all {total} cases"
    return f"; fails in {', '.join(failed)}"
