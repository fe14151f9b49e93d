"""Some of the random configs of random_configs.py; all 10,000 take half a day."""

from __future__ import annotations

import pytest

from tests.kernels.problems import needs_native
from tests.kernels.random_configs import wrong


@needs_native
@pytest.mark.slow
def test_a_hundred_random_configs() -> None:
    assert list(wrong(100, seed=1)) == []
