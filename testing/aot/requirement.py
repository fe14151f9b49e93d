"""Skip tests of ahead-of-time compilation if a compiler is not installed, or fail if that is not allowed."""

from __future__ import annotations

import contextlib
import importlib.util
import os

import pytest

SWITCH = "JAXLSTM_AOT"
"""Environment variable; "required" turns skipped tests into failures, as in ``make test-aot``."""


def need(package: str, extra: str) -> None:
    """Skip the calling test module if ``package`` is not installed, or fail if skipping is not allowed."""
    with contextlib.suppress(ModuleNotFoundError):  # its parent package is not installed
        if importlib.util.find_spec(package) is not None:
            return
    reason = f"{package} is not installed; pip install 'jaxlstm[{extra}]', or run `make test-aot`"
    if os.environ.get(SWITCH) == "required":
        pytest.fail(f"{SWITCH}=required, but {reason}", pytrace=False)
    pytest.skip(reason, allow_module_level=True)
