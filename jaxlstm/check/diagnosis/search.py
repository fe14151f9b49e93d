"""Naming the fault: the faults under which a reference agrees with the subject on all the evidence.

A faulted reference plants faults in the oracle or in a torch module, and measures the distance of its results
from the subject's. Every fault is tried alone, and combinations while time lasts.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from jaxlstm._shared.table import format_number

AGREEMENT = {"float64": 1e-8, "float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
"""Distance, relative to the size of an array, within which a subject agrees with a faulted reference."""

IMPROVEMENT = 8.0
"""An explanation brings the reference at least this many times closer to the subject."""

ROUNDING, MUCH_FURTHER = 1e-15, 1e4
"""Explanations this much farther away than the best one, beyond rounding, are discarded."""

MAX_EXPLANATIONS = 3
"""Largest number of single faults returned. Of combinations, only the first is returned."""

T = TypeVar("T")


Faults = tuple[Any, ...]
"""Faults of one reference, planted together. Each has a ``cause`` in words and a flag ``rounding``."""


class FaultedReference(Protocol):
    """A reference in which faults can be planted, and the evidence that they should explain."""

    @property
    def start(self) -> str:
        """How its explanations start, such as "matches an LSTM in which"."""
        ...

    @property
    def tolerance(self) -> float:
        """The distance within which the subject agrees with it."""
        ...

    @property
    def causes(self) -> Sequence[str]:
        """Faults that the evidence shows by itself, which belong to every explanation."""
        ...

    def single(self, deadline: Deadline) -> Iterable[Faults]:
        """Yield every fault alone, the more likely first."""
        ...

    def combined(self, deadline: Deadline) -> Iterator[Faults]:
        """Yield combinations of faults that some of the evidence does not refute."""
        ...

    def distances(self, faults: Faults) -> Iterator[float]:
        """Yield the distance from the subject on each case, the cheapest first."""
        ...


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

    def __str__(self) -> str:
        return f"{self.start} {' and '.join(self.causes)}, to within {format_number(self.distance)}"


@np.errstate(all="ignore")  # Weights may be infinite, and faults may make them infinite.
def explain(reference: FaultedReference, deadline: Deadline) -> list[Explanation]:
    """Return the single faults, or else the combination, that explain all the evidence, the best first."""
    search = _Search(reference)
    found = list(search.agreeing([()])) if reference.causes else []
    return (
        found
        or _best(search.agreeing(reference.single(deadline)))
        or list(itertools.islice(search.agreeing(reference.combined(deadline)), 1))
    )


def _best(explanations: Iterable[Explanation]) -> list[Explanation]:
    """Sort explanations by distance. If they agree to rounding, the order of the catalogue decides."""
    found = sorted(explanations, key=lambda e: math.floor(math.log10(e.distance + 1e-17)))
    nearest = max(min((e.distance for e in found), default=0.0), ROUNDING)
    return [e for e in found if e.distance <= MUCH_FURTHER * nearest][:MAX_EXPLANATIONS]


class _Search:
    """The test whether faults explain all the evidence."""

    def __init__(self, reference: FaultedReference) -> None:
        self.reference = reference
        self.before = self._distance(())

    def agreeing(self, candidates: Iterable[Faults]) -> Iterator[Explanation]:
        """Yield the candidates under which the reference agrees with all the evidence."""
        for faults in candidates:
            limit = self._limit(faults)
            distance = self._distance(faults, limit)
            if distance <= limit and distance < math.inf:
                causes = (*(fault.cause for fault in faults), *self.reference.causes)
                yield Explanation(self.reference.start, causes, distance)

    def _distance(self, faults: Faults, limit: float = math.inf) -> float:
        """Return the largest distance on any case, or infinity as soon as one exceeds the limit."""
        worst = 0.0
        for distance in self.reference.distances(faults):
            if not distance <= limit:
                return math.inf
            worst = max(worst, distance)
        return worst

    def _limit(self, faults: Faults) -> float:
        """Return the largest distance of an explanation by some faults.

        A fault of precision must bring the reference closer than the other faults do on their own.
        """
        if not faults:
            return self.reference.tolerance
        semantic = tuple(fault for fault in faults if not fault.rounding)
        if len(semantic) == len(faults):
            return min(self.reference.tolerance, self.before / IMPROVEMENT)
        without = self._distance(semantic) if semantic else self.before
        return min(self.before, without) / IMPROVEMENT
