"""Fixtures for tests of the checkpoint reader."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testing.hostile.reader_process import Child


@pytest.fixture(scope="module")
def child(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    """A process that reads checkpoints under limits of time and memory."""
    process = Child(tmp_path_factory.mktemp("child"))
    yield process
    process.stop()
