"""Switch the instruction set of the native kernel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from jaxlstm.kernels.cpu.library import library


@contextmanager
def using(name: str) -> Iterator[None]:
    """Use an instruction set, or skip the test if this machine lacks it."""
    handle = library().handle
    assert handle is not None
    default = library().instruction_set
    if not handle.jaxlstm_use_instruction_set(name.encode()):
        pytest.skip(f"this processor or build has no {name}")
    try:
        yield
    finally:
        handle.jaxlstm_use_instruction_set(default.encode())
