"""A sample of the random configs of ``make random-configs``."""

from __future__ import annotations

import pytest

from tests.support.problems import needs_native
from tools.random_configs import TOLERANCE, draw_config, errors


@needs_native
@pytest.mark.parametrize("first", [0, pytest.param(100, marks=pytest.mark.slow)])
def test_native_equals_scan(first: int) -> None:
    numbers = range(first, first + (300 if first else 5))
    failures = {
        str(config): error for _, config, error in errors(1, numbers) if not error <= TOLERANCE[config.dtype]
    }
    assert failures == {}


def test_config_depends_on_seed_and_number() -> None:
    configs = [draw_config(1, number) for number in range(50)]
    assert configs == [draw_config(1, number) for number in range(50)]
    assert len(set(configs)) == 50
    assert configs != [draw_config(2, number) for number in range(50)]
