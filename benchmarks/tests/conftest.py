"""Short timed bursts and one thread: waiting for a second thread on a busy machine takes seconds."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    # pytest loads this file before jaxtyping 0.2.36 prepares to check jaxlstm, so it imports jaxlstm here.
    from benchmarks import __main__ as command
    from benchmarks import timing

    monkeypatch.setattr(command, "available_threads", lambda: 1)
    monkeypatch.setattr(timing, "BURST_SECONDS", 1e-4)
    monkeypatch.setattr(timing, "WARM_SECONDS", 1e-4)
