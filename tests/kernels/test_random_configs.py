"""Some of the random configs of random_configs.py; all 10,000 take an hour."""

from __future__ import annotations

import pytest

from tests.kernels.problems import needs_native
from tests.kernels.random_configs import MOST, draw_config, errors


@needs_native
@pytest.mark.parametrize("first", [0, pytest.param(100, marks=pytest.mark.slow)])
def test_random_configs(first: int) -> None:
    numbers = range(first, first + (300 if first else 10))
    found = {str(config): (error, MOST[config.dtype]) for _, config, error in errors(1, numbers)}
    assert {name: pair for name, pair in found.items() if not pair[0] <= pair[1]} == {}


def test_a_config_depends_on_its_number_only() -> None:
    configs = [draw_config(1, number) for number in range(50)]
    assert configs == [draw_config(1, number) for number in range(50)]
    assert len(set(configs)) == 50
    assert configs != [draw_config(2, number) for number in range(50)]
