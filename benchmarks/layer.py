"""The measurement of one size: build the implementations, compare each with the oracle, time them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks import agreement, peers
from benchmarks.implementation import Implementation, Unsupported, own
from benchmarks.problems import Problem, Size, make_problem
from benchmarks.settings import Settings, applied
from benchmarks.timing import Call, interleaved

OWN = "jaxlstm"
Makers = Mapping[str, Callable[[Problem], Implementation]]


def makers(names: Sequence[str], backend: str, settings: Settings) -> Makers:
    """Return a constructor for each implementation, jaxlstm's first."""
    result: dict[str, Callable[[Problem], Implementation]] = {
        OWN: lambda problem: own(problem, backend, settings.precision)
    }
    for name in names:
        make = peers.load(name).implementation
        result[name] = lambda problem, make=make: make(problem, settings)
    return result


def measure(
    mode: str, size: Size, implementations: Makers, rounds: int, settings: Settings
) -> dict[str, Any]:
    """Return one row of results, in a form that JSON can hold.

    - ``ms``: the median over the rounds of the milliseconds per call; ``ms_range`` holds the extremes.
    - ``first_call_s``: seconds of the first call, which compiles.
    - ``error``: the largest difference from the oracle (see `agreement.compare`).
    - ``left_out``: the reason why a library cannot run this problem.
    - ``wrong``: the disagreement because of which a library was not timed.
    """
    with applied(settings, list(implementations)):
        problem = make_problem(size)
        expected = agreement.expected_arrays(problem, mode)
        first_call_s, errors, left_out, wrong = {}, {}, {}, {}
        calls: dict[str, Call] = {}
        for name, make in implementations.items():
            try:
                call = _call(make(problem), mode)
                start = time.perf_counter()
                result = call()
            except Unsupported as reason:
                left_out[name] = str(reason)
                continue
            first_call_s[name] = time.perf_counter() - start
            error, fault = agreement.compare(result, expected, mode, settings.arithmetic)
            if fault is None:
                errors[name], calls[name] = error, call
            else:
                wrong[name] = fault
        times = interleaved(calls, rounds)
    return {
        "mode": mode,
        **size.as_dict(),
        "ms": {name: statistics.median(ms) for name, ms in times.items()},
        "ms_range": {name: [min(ms), max(ms)] for name, ms in times.items()},
        "first_call_s": first_call_s,
        "error": errors,
        "left_out": left_out,
        "wrong": wrong,
    }


def _call(implementation: Implementation, mode: str) -> Call:
    if mode == "infer":
        return implementation.infer
    if implementation.train is None:
        raise Unsupported("does not train")
    return implementation.train
