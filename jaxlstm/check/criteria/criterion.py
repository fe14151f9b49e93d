"""A criterion, and the outcomes of judging one case by it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

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

    ``in_mean`` is False for a case with large cell states, where right implementations differ widely.
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
        rounding; "gradient" for the derivative alone.
      text: the name of its item in reports.
      judge: yields the outcomes of a :class:`~jaxlstm.check.verification.Trial`.
      judged: "on results" of every case; "on calls", even if the subject raised an exception; or "at the
        end", when ``judge`` takes the whole :class:`~jaxlstm.check.verification.Verification`.
      total: combines the RMS ratios of all cases.
    """

    id: str
    kind: Kind
    text: str
    judge: Callable[[Any], Iterable[Outcome]]
    judged: Literal["on results", "on calls", "at the end"] = "on results"
    total: Callable[[Sequence[RmsRatio]], Measurement] | None = None


def worst_of(measurements: Iterable[Measurement]) -> Measurement:
    """Return the measurement with the largest excess; NaN counts as infinite."""
    return max(measurements, key=lambda m: np.inf if np.isnan(m.value) else m.excess)


def place(case: str, where: str) -> str:
    """Return the case and the place within it, in words."""
    return ", ".join(part for part in (case, where) if part)
