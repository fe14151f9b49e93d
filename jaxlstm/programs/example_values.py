"""Values of the example of an export, which replace values that ``jit`` hides."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

ALLOWED: ContextVar[bool] = ContextVar("allowed", default=True)
"""True if a program under ``jit`` may have the values of its example, and give NaN for others."""


@contextlib.contextmanager
def without_example_values() -> Iterator[None]:
    """Let programs refuse to run under ``jit`` where they need values that it hides."""
    token = ALLOWED.set(False)
    try:
        yield
    finally:
        ALLOWED.reset(token)
