"""Flax's initializers take longer to compile than all else, so these tests do without XLA's optimizations."""

import pytest


@pytest.fixture(autouse=True, scope="module")
def without_optimizations(fast_compilation: None) -> None:
    pass
