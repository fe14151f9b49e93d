"""The number of threads that a call may use."""

from __future__ import annotations

import os


def available_threads() -> int:
    """Return the number of threads that XLA uses: NPROC, or one for each CPU of this process."""
    requested = os.environ.get("NPROC", "")
    if requested.isdecimal() and int(requested) > 0:
        return int(requested)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
