"""The diagnosis of a failed verification: the search for faults that explain all the evidence.

A faulted reference plants faults in the oracle or in a torch module, and measures the distance of its results
from the subject's. Single faults are tried first, then combinations while time lasts.
"""

from __future__ import annotations

import itertools
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from jaxlstm._shared.table import format_number
from jaxlstm.check.report.item import Divergence, LayerDifference

IMPROVEMENT = 8.0
"""An explanation brings the reference at least this many times closer to the subject."""

ROUNDING, MUCH_FURTHER = 1e-15, 1e4
"""Explanations this much farther away than the best one, beyond rounding, are discarded."""

MAX_EXPLANATIONS = 3
"""Largest number of single faults returned. Of combinations, only the first is returned."""

T = TypeVar("T")

Faults = tuple[Any, ...]
"""Faults of one reference, planted together. Each has a ``cause`` in words and a flag ``rounding``."""


@dataclass(frozen=True)
class Diagnosis:
    """The explanations, the most likely first, and where a port or the layers of a model differ."""

    lines: tuple[str, ...] = ()
    difference: Divergence | None = None
    layers: tuple[LayerDifference, ...] = ()


class Deadline:
    """A time limit that starts when it is first looked at."""

    def __init__(self, seconds: float) -> None:
        """Set the length of the limit."""
        self.seconds, self.passed = seconds, False
        self._end: float | None = None

    def before(self, entries: Iterable[T]) -> Iterator[T]:
        """Yield entries until the time is over."""
        if self._end is None:
            self._end = time.monotonic() + self.seconds
        for entry in entries:
            if time.monotonic() >= self._end:
                self.passed = True
                return
            yield entry


@dataclass(frozen=True)
class Explanation:
    """Faults under which a reference agrees with the subject, and the remaining distance."""

    start: str
    causes: tuple[str, ...]
    distance: float
    faults: Faults = ()

    def __str__(self) -> str:
        return f"{self.start} {' and '.join(self.causes)}, to within {format_number(self.distance)}"


class FaultedReference(ABC):
    """A reference in which faults can be planted, and the evidence that they should explain.

    Attributes:
      start: how its explanations start, such as "matches an LSTM in which".
      tolerance: the distance within which the subject agrees with it.
      causes: faults that the evidence shows directly, which belong to every explanation.
    """

    start: str
    tolerance: float
    causes: Sequence[str] = ()

    @abstractmethod
    def single(self, deadline: Deadline) -> Iterable[Faults]:
        """Yield each single fault, the more likely first."""

    @abstractmethod
    def combined(self, deadline: Deadline) -> Iterator[Faults]:
        """Yield combinations of faults that some of the evidence does not refute."""

    @abstractmethod
    def distances(self, faults: Faults) -> Iterator[float]:
        """Yield the distance from the subject on each case, the cheapest first."""

    @np.errstate(all="ignore")  # Weights may be infinite, and faults may make them infinite.
    def explain(self, deadline: Deadline) -> list[Explanation]:
        """Return the single faults, or else the combination, that explain the evidence, the best first."""
        faultless = list(self._agreeing([()])) if self.causes else []
        return (
            faultless
            or _best(self._agreeing(self.single(deadline)))
            or list(itertools.islice(self._agreeing(self.combined(deadline)), 1))
        )

    def _agreeing(self, candidates: Iterable[Faults]) -> Iterator[Explanation]:
        """Yield the candidates under which the reference agrees with all the evidence."""
        for faults in candidates:
            limit = self._limit(faults)
            distance = self._distance_on_all(faults, limit)
            if distance <= limit and distance < math.inf:
                causes = (*(fault.cause for fault in faults), *self.causes)
                yield Explanation(self.start, causes, distance, faults)

    @cached_property
    def _before(self) -> float:
        """The distance without any fault."""
        return self._distance_on_all(())

    def _distance_on_all(self, faults: Faults, limit: float = math.inf) -> float:
        """Return the largest distance on any case, or infinity as soon as one exceeds the limit."""
        worst = 0.0
        for distance in self.distances(faults):
            if not distance <= limit:
                return math.inf
            worst = max(worst, distance)
        return worst

    def _limit(self, faults: Faults) -> float:
        """Return the largest distance of an explanation by some faults.

        Faults of precision explain a small distance, so that only an improvement counts.
        """
        if not faults:
            return self.tolerance
        improved = self._before / IMPROVEMENT
        return improved if any(fault.rounding for fault in faults) else min(self.tolerance, improved)


def _best(explanations: Iterable[Explanation]) -> list[Explanation]:
    """Sort explanations by distance. If they agree to rounding, the order of the catalogue decides."""
    ranked = sorted(explanations, key=lambda e: math.floor(math.log10(e.distance + 1e-17)))
    nearest = max(min((e.distance for e in ranked), default=0.0), ROUNDING)
    return [e for e in ranked if e.distance <= MUCH_FURTHER * nearest][:MAX_EXPLANATIONS]
