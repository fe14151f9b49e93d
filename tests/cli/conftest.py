"""Fixtures for the tests of the commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from testing.run_command import write_checkpoint


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """The checkpoint of ``testing.run_command``."""
    return write_checkpoint(tmp_path)
