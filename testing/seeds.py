"""Seeds of generated tests: a few in ``make test``, many in ``make test-slow``."""

from collections.abc import Sequence

import pytest


def seeds(fast: int, slow: int) -> Sequence[object]:
    """Return the seeds 0 to ``slow`` for ``pytest.mark.parametrize``; those from ``fast`` on are slow."""
    return [*range(fast), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(fast, slow))]
