"""What ahead-of-time compilation needs: without it tests are skipped aloud, or fail if none may be."""

from __future__ import annotations

import contextlib
import importlib.util
import os

import pytest

MUST = "JAXLSTM_AOT"  # "required": nothing may be skipped; `make test-aot` says so


def need(package: str, extra: str) -> None:
    """Skip the module that calls this if ``package`` is not installed, or fail if none may be skipped."""
    with contextlib.suppress(ModuleNotFoundError):  # the package that it would be in is not there
        if importlib.util.find_spec(package) is not None:
            return
    reason = f"{package} is not installed; pip install 'jaxlstm[{extra}]', or run `make test-aot`"
    if os.environ.get(MUST) == "required":
        pytest.fail(f"{MUST}=required, but {reason}", pytrace=False)
    pytest.skip(reason, allow_module_level=True)
