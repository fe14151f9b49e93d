"""A sample of the random configs of ``make random-configs``."""

from __future__ import annotations

import pytest

from testing.problems import Problem, needs_native
from tools.random_configs import Config, draw_config, errors, is_wrong


@needs_native
@pytest.mark.usefixtures("fast_compilation")
@pytest.mark.parametrize("first", [0, pytest.param(100, marks=pytest.mark.slow)])
def test_native_equals_scan(first: int) -> None:
    numbers = range(first, first + (300 if first else 5))
    failures = {str(config): error for _, config, error in errors(1, numbers) if is_wrong(config, error)}
    assert failures == {}


def test_an_error_that_rounding_explains() -> None:
    """In step 16 the 70 summands of a gate nearly cancel: the error of torch is as large as the kernel's."""
    ill_conditioned = Config(Problem(20, 1, 70, 1), "float32", 1)
    assert not is_wrong(ill_conditioned, 9.8e-6)
    assert is_wrong(ill_conditioned, 1e-4)
    assert is_wrong(ill_conditioned, float("nan"))


def test_config_depends_on_seed_and_number() -> None:
    configs = [draw_config(1, number) for number in range(50)]
    assert configs == [draw_config(1, number) for number in range(50)]
    assert len(set(configs)) == 50
    assert configs != [draw_config(2, number) for number in range(50)]
