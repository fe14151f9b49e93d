"""Values of the example of an export, which replace values that ``jit`` hides."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

ALLOWED: ContextVar[bool] = ContextVar("allowed", default=True)
"""True if a program under ``jit`` may have the values of its example, and give NaN for others."""

ASSERTED: ContextVar[bool] = ContextVar("asserted", default=True)
"""True if a program under ``jit`` may give NaN where an assertion about values does not hold."""


@contextlib.contextmanager
def without(permission: ContextVar[bool]) -> Iterator[None]:
    """Let programs refuse to run under ``jit`` where they need this permission."""
    token = permission.set(False)
    try:
        yield
    finally:
        permission.reset(token)
