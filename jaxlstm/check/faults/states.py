"""Faults of the initial and final states: which is which, their order and their layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from jaxlstm.check.faults.fault import (
    Applies,
    Fault,
    OracleCall,
    always,
    is_bidirectional,
    is_not_projected,
    is_stacked,
    is_stacked_bidirectional,
)
from jaxlstm.check.reference.oracle import DirectionRun, OracleRun
from jaxlstm.check.reference.results import Results
from jaxlstm.config import LSTMConfig

Array = np.ndarray
State = tuple[Array, Array]
Slots = Callable[[LSTMConfig], list[int]]
"""For each slot (layer, direction) of torch's layout, the slot of another layout."""


def faults() -> Iterator[Fault]:
    """Yield every fault of the states."""
    yield from _initial()
    yield from _final()


def _direction_major(config: LSTMConfig) -> list[int]:
    layers, directions = config.num_layers, config.num_directions
    return [d * layers + k for k in range(layers) for d in range(directions)]


def _layers_reversed(config: LSTMConfig) -> list[int]:
    layers, directions = config.num_layers, config.num_directions
    return [(layers - 1 - k) * directions + d for k in range(layers) for d in range(directions)]


def _directions_swapped(config: LSTMConfig) -> list[int]:
    return [slot ^ 1 for slot in range(config.num_layers * 2)]


def _stride_one(config: LSTMConfig) -> list[int]:
    return [k + d for k in range(config.num_layers) for d in range(config.num_directions)]


def _first_layer(config: LSTMConfig) -> list[int]:
    return list(range(config.num_directions)) * config.num_layers


_LAYOUTS: tuple[tuple[str, Slots, Applies], ...] = (
    ("are laid out direction by direction", _direction_major, is_stacked_bidirectional),
    ("have the layers in reverse order", _layers_reversed, is_stacked),
    ("have the two directions swapped", _directions_swapped, is_bidirectional),
)


def _initial() -> Iterator[Fault]:
    def fault(
        cause: str,
        change: Callable[[Array, Array], State],
        applies: Applies = always,
    ) -> Fault:
        def apply(call: OracleCall) -> OracleCall:
            return replace(call, state=change(*call.state))

        return Fault(cause, apply, "initial state", applies)

    def reordered(cause: str, slots: Slots, applies: Applies) -> Fault:
        def apply(call: OracleCall) -> OracleCall:
            order = slots(call.config)
            return replace(call, state=(call.state[0][order], call.state[1][order]))

        return Fault(cause, apply, "initial state", applies)

    yield fault("h_0 and c_0 are swapped", lambda h, c: (c, h), is_not_projected)
    yield fault("h_0 is ignored", lambda h, c: (h * 0, c))
    yield fault("c_0 is ignored", lambda h, c: (h, c * 0))
    yield fault("the initial state is ignored", lambda h, c: (h * 0, c * 0))
    yield fault("h_0 is used for c_0 too", lambda h, c: (h, h), is_not_projected)
    for layout, slots, applies in _LAYOUTS:
        yield reordered(f"h_0 and c_0 {layout}", slots, applies)
    yield reordered(
        "h_0 and c_0 are read at layer + direction instead of layer * 2 + direction",
        _stride_one,
        is_stacked_bidirectional,
    )
    yield reordered("every layer starts from the first layer's state", _first_layer, is_stacked)
    yield Fault(
        "rows are sorted by length but h_0 and c_0 are not", _state_not_sorted, "initial state"
    )


def _state_not_sorted(call: OracleCall) -> OracleCall:
    rank = np.argsort(np.argsort(-call.lengths, kind="stable"), kind="stable")
    return replace(call, state=(call.state[0][:, rank], call.state[1][:, rank]))


def _final() -> Iterator[Fault]:
    def fault(
        cause: str,
        change: Callable[[State, OracleRun, OracleCall], State],
        applies: Applies = always,
    ) -> Fault:
        def finish(results: Results, run: OracleRun, call: OracleCall) -> Results:
            assert results.h_n is not None
            assert results.c_n is not None
            h_n, c_n = change((results.h_n, results.c_n), run, call)
            return results._replace(h_n=h_n, c_n=c_n)

        return Fault(cause, lambda call: call.then(finish), "final state", applies)

    def reordered(cause: str, slots: Slots, applies: Applies) -> Fault:
        def change(state: State, run: OracleRun, call: OracleCall) -> State:
            order = np.argsort(slots(call.config))
            return state[0][order], state[1][order]

        return fault(cause, change, applies)

    yield fault("h_n and c_n are swapped", lambda s, run, call: (s[1], s[0]), is_not_projected)
    yield fault("h_n is returned for c_n too", lambda s, run, call: (s[0], s[0]), is_not_projected)
    yield fault("the final state is the initial state", lambda s, run, call: call.state)
    for layout, slots, applies in _LAYOUTS:
        yield reordered(f"h_n and c_n {layout}", slots, applies)
    yield fault(
        "the final state of the reverse direction is the state after its first step",
        _state_at_the_end,
        is_bidirectional,
    )
    yield fault("the final state is that before the last step", _state_before_last)
    yield fault(
        "rows are sorted by length but h_n and c_n are not restored to their order",
        _state_left_sorted,
    )


def _state_left_sorted(state: State, run: OracleRun, call: OracleCall) -> State:
    order = np.argsort(-call.lengths, kind="stable")
    return state[0][:, order], state[1][:, order]


def _directions(run: OracleRun) -> Iterator[tuple[int, DirectionRun]]:
    """Yield 0 or 1 for forward or reverse, and the run of each direction of each layer."""
    for layer in run.record:
        yield from enumerate(layer)


def _state_at_the_end(state: State, run: OracleRun, call: OracleCall) -> State:
    last, rows = call.lengths - 1, np.arange(len(call.lengths))
    steps = [direction.steps for _, direction in _directions(run)]
    return np.stack([s.h[last, rows] for s in steps]), np.stack([s.c[last, rows] for s in steps])


def _state_before_last(state: State, run: OracleRun, call: OracleCall) -> State:
    rows = np.arange(len(call.lengths))
    h_n, c_n = [], []
    for reverse, direction in _directions(run):
        last = np.zeros_like(call.lengths) if reverse else call.lengths - 1
        h_n.append(direction.h_prev[last, rows])
        c_n.append(direction.c_prev[last, rows])
    return np.stack(h_n), np.stack(c_n)
