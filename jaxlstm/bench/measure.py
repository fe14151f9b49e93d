"""The measurement: for each size the sides that can do it are made, compared with the oracle, and timed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from jaxlstm.bench import agreement, peers
from jaxlstm.bench.jax_side import own_side
from jaxlstm.bench.setting import Setting, applied
from jaxlstm.bench.side import Side, Unsupported
from jaxlstm.bench.sizes import Problem, Size, make_problem
from jaxlstm.bench.timing import Call, by_turns

OWN = "jaxlstm"
Makers = Mapping[str, Callable[[Problem], Side]]


def makers(names: Sequence[str], backend: str, setting: Setting) -> Makers:
    """What makes each side, jaxlstm's own first."""
    made: dict[str, Callable[[Problem], Side]] = {
        OWN: lambda problem: own_side(problem, backend, setting.precision)
    }
    for name in names:
        make = peers.load(name)
        made[name] = lambda problem, make=make: make(problem, setting)
    return made


def measure(
    mode: str, sizes: Sequence[Size], sides: Makers, rounds: int, setting: Setting
) -> Iterator[dict[str, Any]]:
    """One row for each size, as JSON has it.

    ``ms`` is the median of one call's milliseconds over the rounds, ``ms_range`` the least and the most,
    ``first_call_s`` the seconds of the first, with what is compiled in it; ``error`` the largest
    difference from the oracle (see :func:`.agreement.disagreement`). ``left_out`` says why a side cannot do
    this, ``wrong`` why it was not timed.
    """
    for size in sizes:
        with applied(setting, list(sides)):
            row = _row(make_problem(size), mode, sides, rounds, setting.arithmetic)
        yield {"mode": mode, **size.as_dict(), **row}


def _row(
    problem: Problem, mode: str, sides: Makers, rounds: int, arithmetic: str
) -> dict[str, Any]:
    wanted = agreement.truth(problem, mode)
    row: dict[str, dict[str, Any]] = {
        "first_call_s": {},
        "error": {},
        "left_out": {},
        "wrong": {},
    }
    calls: dict[str, Call] = {}
    for name, make in sides.items():
        try:
            call = _call(make(problem), mode)
            start = time.perf_counter()
            answer = call()
        except Unsupported as why:
            row["left_out"][name] = str(why)
            continue
        row["first_call_s"][name] = time.perf_counter() - start
        error, fault = agreement.disagreement(answer, wanted, mode, arithmetic)
        if fault is None:
            row["error"][name] = error
            calls[name] = call
        else:
            row["wrong"][name] = fault
    times = by_turns(calls, rounds)
    return {
        "ms": {name: statistics.median(found) for name, found in times.items()},
        "ms_range": {name: [min(found), max(found)] for name, found in times.items()},
        **row,
    }


def _call(side: Side, mode: str) -> Call:
    if mode == "infer":
        return side.infer
    if side.train is None:
        raise Unsupported("does not train")
    return side.train
