"""One LSTM, inference and training: each implementation is compared with the oracle, then timed."""

import ctypes
import platform
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from benchmarks import peers
from benchmarks.parts import Settings
from benchmarks.problems import (
    SIZES,
    TINY_SIZES,
    Implementation,
    Problem,
    Size,
    Unsupported,
    expected_arrays,
    fault_of,
    make_problem,
    own,
    runner,
)
from benchmarks.timing import Call, interleaved, spreads

Makers = Mapping[str, Callable[[Problem, Settings], Implementation]]


def infer(settings: Settings) -> Iterator[dict[str, Any]]:
    """Time the forward pass of each size."""
    return _measure_all("infer", {"jaxlstm": own, "jaxlstm Runner": runner}, settings)


def train(settings: Settings) -> Iterator[dict[str, Any]]:
    """Time the gradients of each size with respect to inputs and weights, with memory that is kept."""
    keep_freed_memory()
    return _measure_all("train", {"jaxlstm": own}, settings)


def keep_freed_memory() -> None:
    """Make glibc's malloc keep freed memory, and take memory from one arena; do nothing without glibc.

    A training step takes hundreds of megabytes. Some virtual machines give free memory back to the host, and
    getting it again can take longer than the step, at random and for every library.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    m_trim_threshold, m_mmap_threshold, m_arena_max = -1, -3, -8  # from malloc.h
    for option, value in ((m_trim_threshold, 2**31 - 1), (m_mmap_threshold, 2**31 - 1), (m_arena_max, 1)):
        ctypes.CDLL(None).mallopt(option, value)


def _measure_all(mode: str, ours: Makers, settings: Settings) -> Iterator[dict[str, Any]]:
    makers = {**ours, **{name: peers.load(name).implementation for name in settings.against}}
    for size in (TINY_SIZES if settings.tiny else SIZES)[mode]:
        yield measure(mode, size, makers, settings)


def measure(mode: str, size: Size, makers: Makers, settings: Settings) -> dict[str, Any]:
    """Return one row."""
    problem = make_problem(size, settings.dtype)
    expected = expected_arrays(problem, mode)
    calls: dict[str, Call] = {}
    left_out, wrong = {}, {}
    for name, make in makers.items():
        try:
            call = getattr(make(problem, settings), mode)
            result = call()
        except Unsupported as reason:
            left_out[name] = str(reason)
            continue
        fault = fault_of(result, expected, mode, settings.dtype)
        if fault is None:
            calls[name] = call
        else:
            wrong[name] = fault
    times = interleaved(calls, settings.rounds)
    row = {"case": size.label, "unit": "ms", "values": spreads(times)}
    return row | {"left_out": left_out, "wrong": wrong}
