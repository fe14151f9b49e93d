"""Fixtures for the tests of the commands."""

from pathlib import Path

import pytest

from testing.command import write_checkpoint


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """The checkpoint of ``testing.command``."""
    return write_checkpoint(tmp_path)
