"""Interleaved timing of calls in one process.

The implementations take turns, and the order rotates from round to round. Each runs untimed for a moment
before its timed burst: its own threads wake up, and the spinning threads of the previous one go to sleep
(ONNX Runtime's spin for 30 ms, and jaxlstm then avoids the busy core for up to 64 ms). A pause replaces the
untimed run before a long call, which waking threads hardly affects.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

BURST_SECONDS = 0.05  # minimum length of a timed burst, which keeps the clock's noise small
WARM_SECONDS = 0.1  # minimum length of the untimed run before it
LONG_SECONDS = 0.2  # length from which a call gets a pause instead

Call = Callable[[], Any]


def interleaved(calls: Mapping[str, Call], rounds: int) -> dict[str, list[float]]:
    """Return the milliseconds per call of each implementation, one value per round."""
    seconds = {name: _first_seconds(call) for name, call in calls.items()}
    repeats = {name: 1 + int(BURST_SECONDS / max(one, 1e-6)) for name, one in seconds.items()}
    names = list(calls)
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            if seconds[name] < LONG_SECONDS:
                _warm_up(calls[name])
            else:
                time.sleep(WARM_SECONDS)
            times[name].append(1e3 * _seconds_per_call(calls[name], repeats[name]))
    return times


def quartiles(values: Sequence[float]) -> list[float]:
    """Return lower quartile, median and upper quartile, with four significant digits."""
    several = [*values] * (2 if len(values) == 1 else 1)
    return [float(f"{value:.4g}") for value in statistics.quantiles(several, n=4, method="inclusive")]


def spreads(times: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Return the quartiles of each implementation."""
    return {name: quartiles(values) for name, values in times.items()}


def _first_seconds(call: Call) -> float:
    _warm_up(call)
    return _seconds_per_call(call, 1)


def _warm_up(call: Call) -> None:
    end = time.perf_counter() + WARM_SECONDS
    call()
    while time.perf_counter() < end:
        call()


def _seconds_per_call(call: Call, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats
