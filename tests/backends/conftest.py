"""The device of each test here. Where JAX has none of a backend its tests are skipped, and say why."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import pytest

from tests.backends.each import absence


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a backend on whose first device JAX runs during the test."""
    name = request.param
    if reason := absence(name):
        pytest.skip(reason)
    with jax.default_device(jax.devices(name)[0]):
        yield name
