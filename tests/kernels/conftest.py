"""Fixtures for the tests of the kernels."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(scope="module")
def fast_compilation() -> Iterator[None]:
    """Turn most of XLA's optimizations off, because these tests compile far longer than they run."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
