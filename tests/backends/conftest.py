"""The ``backend`` fixture. Tests of a backend without a device are skipped."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import pytest

from testing.each_backend import absence


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run JAX on the first device of the backend during the test, and return the name of the backend."""
    name = request.param
    if reason := absence(name):
        pytest.skip(reason)
    with jax.default_device(jax.devices(name)[0]):
        yield name
