"""One LSTM, inference and training: each implementation is compared with the oracle, then timed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from benchmarks import agreement, machine, peers
from benchmarks.implementation import Implementation, Unsupported, own, runner
from benchmarks.problems import SIZES, TINY_SIZES, Problem, Size, make_problem
from benchmarks.settings import Settings, applied
from benchmarks.timing import Call, interleaved, spreads

Makers = Mapping[str, Callable[[Problem, Settings], Implementation]]


def infer(settings: Settings) -> Iterator[dict[str, Any]]:
    """Time the forward pass of each size."""
    return _measure_all("infer", {"jaxlstm": own, "jaxlstm Runner": runner}, settings)


def train(settings: Settings) -> Iterator[dict[str, Any]]:
    """Time the gradients of each size with respect to inputs and weights, with memory that is kept."""
    machine.keep_freed_memory()
    return _measure_all("train", {"jaxlstm": own}, settings)


def _measure_all(mode: str, ours: Makers, settings: Settings) -> Iterator[dict[str, Any]]:
    makers = {**ours, **{name: peers.load(name).implementation for name in settings.against}}
    for size in (TINY_SIZES if settings.tiny else SIZES)[mode]:
        yield measure(mode, size, makers, settings)


def measure(mode: str, size: Size, makers: Makers, settings: Settings) -> dict[str, Any]:
    """Return one row. Its ``error`` holds each largest difference from the oracle, see `agreement`."""
    with applied(settings, settings.against):
        problem = make_problem(size, settings.dtype)
        expected = agreement.expected_arrays(problem, mode)
        calls: dict[str, Call] = {}
        errors, left_out, wrong = {}, {}, {}
        for name, make in makers.items():
            try:
                implementation = make(problem, settings)
                call = _call(implementation, mode)
                result = call()
            except Unsupported as reason:
                left_out[name] = str(reason)
                continue
            arithmetic = implementation.arithmetic or settings.arithmetic
            errors[name], fault = agreement.compare(result, expected, mode, arithmetic)
            if fault is None:
                calls[name] = call
            else:
                wrong[name] = fault
        times = interleaved(calls, settings.rounds)
    row = {"case": size.label, "words": size.words, "unit": "ms", "values": spreads(times)}
    return row | {"error": errors, "left_out": left_out, "wrong": wrong}


def _call(implementation: Implementation, mode: str) -> Call:
    if mode == "infer":
        return implementation.infer
    if implementation.train is None:
        raise Unsupported("does not train")
    return implementation.train
