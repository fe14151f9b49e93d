"""Fixtures for tests of the checkpoint reader."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testing.hostile.reader_process import ReaderProcess


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReaderProcess]:
    """A process that reads checkpoints under limits of time and memory."""
    with ReaderProcess(tmp_path_factory.mktemp("reader")) as process:
        yield process
