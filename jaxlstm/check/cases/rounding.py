"""Changes of every number of a call, as rounding may cause them."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from jaxlstm.check.cases.case import Array, Case, is_discrete, is_floating

Whole = Literal["not", "except zeros", "apart", "alike"]
"""How the whole numbers of a mask, for example, move: zeros or none stay; no two, or all, move alike."""


@dataclass(frozen=True)
class Rounding:
    """A change of every floating-point number by a relative ``size``."""

    size: float
    rng: np.random.Generator
    whole: Whole = "except zeros"

    def of_case(self, case: Case) -> Case:
        """Return a case in float64 after a change of its arguments and cotangents."""
        return case.astype(np.float64).map_numbers(self._moved)

    def of_weight(self, array: Any) -> Array:
        """Return a parameter or buffer after a change. Two of its whole numbers never compete."""
        return self._moved(array, "not" if self.whole == "not" else "except zeros")

    def _moved(self, array: Any, whole: Whole | None = None) -> Array:
        array, whole = np.asarray(array), whole or self.whole
        if not is_floating(array) or (whole == "not" and is_discrete(array)):
            return array
        if whole in ("not", "except zeros"):
            return np.asarray(array * (1 + self.size * self.rng.choice([-1.0, 1.0], array.shape)))
        steps = self.size * (1 + (_rank_among_equals(array) if whole == "apart" else 0))
        return np.asarray(array * (1 + steps) + steps * (array == 0))


def _rank_among_equals(array: Array) -> Array:
    """Return the number of equal elements before each element of an array."""
    order = np.argsort(array, axis=None, kind="stable")
    counts = np.unique(array, return_counts=True)[1]
    ranks = np.empty(array.size, np.int64)
    starts = np.cumsum(counts) - counts
    ranks[order] = np.arange(array.size) - np.repeat(starts, counts)
    return ranks.reshape(array.shape)
