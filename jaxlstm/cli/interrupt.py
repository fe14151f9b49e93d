"""Ctrl-C that is not lost.

JAX runs a Python function at each garbage collection. If Ctrl-C arrives there, or in a ``__del__``, Python
prints the KeyboardInterrupt with a traceback and goes on.
"""

from __future__ import annotations

import _thread
import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import Any

DELAY = 0.05
"""Seconds after which a lost interrupt is raised again, outside the function that lost it."""


@contextlib.contextmanager
def repeat_lost_interrupts() -> Iterator[None]:
    """Raise KeyboardInterrupt again, inside the context, where Python would drop it."""
    previous, timers = sys.unraisablehook, []

    def hook(unraisable: Any) -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            previous(unraisable)
            return
        timers.append(threading.Timer(DELAY, _thread.interrupt_main))
        timers[-1].start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = previous
        for timer in timers:
            timer.cancel()
