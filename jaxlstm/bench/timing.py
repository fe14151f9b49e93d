"""The clock: sides take turns in warm bursts, in one process.

A pause would put a library's threads to sleep and make it look slower than it is, and the threads of the
side before may still be spinning: hence each side runs untimed for a moment, then is timed. Who is first
changes from round to round.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

BURST_SECONDS = 0.05  # the least that one timed burst takes, so that the clock's own noise is small
WARM_SECONDS = 0.02  # the least that a side runs untimed before it is timed

Call = Callable[[], Any]
Clock = Callable[[], float]


def by_turns(
    calls: dict[str, Call], rounds: int, clock: Clock = time.perf_counter
) -> dict[str, list[float]]:
    """Milliseconds of one call of each side, in each round."""
    repeats = {name: _repeats(call, clock) for name, call in calls.items()}
    names = list(calls)
    found: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            _warm(calls[name], clock)
            found[name].append(1e3 * _seconds(calls[name], repeats[name], clock))
    return found


def _repeats(call: Call, clock: Clock) -> int:
    """How many calls fill a burst."""
    _warm(call, clock)
    return 1 + int(BURST_SECONDS / max(_seconds(call, 1, clock), 1e-6))


def _warm(call: Call, clock: Clock) -> None:
    end = clock() + WARM_SECONDS
    call()
    while clock() < end:
        call()


def _seconds(call: Call, repeats: int, clock: Clock) -> float:
    start = clock()
    for _ in range(repeats):
        call()
    return (clock() - start) / repeats
