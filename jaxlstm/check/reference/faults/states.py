"""Faults of the initial and final states: which is which, their order and their layout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from jaxlstm.check.cases.results import Results
from jaxlstm.check.reference.faults.fault import Fault, OracleCall
from jaxlstm.check.reference.oracle import OracleRun
from jaxlstm.layer.config import LSTMConfig

Array = np.ndarray
State = tuple[Array, Array]
SlotOf = Callable[[int, int, LSTMConfig], int]
"""(layer, direction, config) -> the slot of that state in another layout."""


def _initial(cause: str, change: Callable[[State, OracleCall], State], needs: str = "") -> Fault:
    def apply(call: OracleCall) -> OracleCall:
        return replace(call, state=change(call.state, call))

    return Fault(cause, apply, "initial state", needs)


def _final(cause: str, change: Callable[[State, OracleRun, OracleCall], State], needs: str = "") -> Fault:
    def finish(results: Results, run: OracleRun, call: OracleCall) -> Results:
        state: Any = (results.outputs["h_n"], results.outputs["c_n"])
        h_n, c_n = change(state, run, call)
        return results.with_outputs(h_n=h_n, c_n=c_n)

    return Fault(cause, lambda call: call.then(finish), "final state", needs)


def _slots(slot_of: SlotOf, config: LSTMConfig) -> list[int]:
    slots = np.ndindex(config.num_layers, config.num_directions)
    return [slot_of(layer, direction, config) for layer, direction in slots]


def _initial_slots(cause: str, slot_of: SlotOf, needs: str) -> Fault:
    def change(state: State, call: OracleCall) -> State:
        order = _slots(slot_of, call.config)
        return state[0][order], state[1][order]

    return _initial(cause, change, needs)


def _final_slots(cause: str, slot_of: SlotOf, needs: str) -> Fault:
    def change(state: State, run: OracleRun, call: OracleCall) -> State:
        order = np.argsort(_slots(slot_of, call.config))
        return state[0][order], state[1][order]

    return _final(cause, change, needs)


def _by_length(call: OracleCall) -> Array:
    return np.argsort(-call.lengths, kind="stable")


def _initial_not_sorted(state: State, call: OracleCall) -> State:
    rank = np.argsort(_by_length(call), kind="stable")
    return state[0][:, rank], state[1][:, rank]


def _final_left_sorted(state: State, run: OracleRun, call: OracleCall) -> State:
    order = _by_length(call)
    return state[0][:, order], state[1][:, order]


def _state_at_the_end(state: State, run: OracleRun, call: OracleCall) -> State:
    last, rows = call.lengths - 1, np.arange(len(call.lengths))
    steps = [direction.steps for layer in run.record for direction in layer]
    return np.stack([s.h[last, rows] for s in steps]), np.stack([s.c[last, rows] for s in steps])


def _state_before_last(state: State, run: OracleRun, call: OracleCall) -> State:
    rows = np.arange(len(call.lengths))
    h_n, c_n = [], []
    for layer in run.record:
        for reverse, direction in enumerate(layer):
            last = np.zeros_like(call.lengths) if reverse else call.lengths - 1
            h_n.append(direction.h_prev[last, rows])
            c_n.append(direction.c_prev[last, rows])
    return np.stack(h_n), np.stack(c_n)


_LAYOUTS: tuple[tuple[str, SlotOf, str], ...] = (
    (
        "are laid out direction by direction",
        lambda layer, direction, config: direction * config.num_layers + layer,
        "stacked bidirectional",
    ),
    (
        "have the layers in reverse order",
        lambda layer, direction, config: (config.num_layers - 1 - layer) * config.num_directions + direction,
        "stacked",
    ),
    (
        "have the two directions swapped",
        lambda layer, direction, config: 2 * layer + 1 - direction,
        "bidirectional",
    ),
)

FAULTS = (
    _initial("h_0 and c_0 are swapped", lambda s, call: (s[1], s[0]), "not-projected"),
    _initial("h_0 is ignored", lambda s, call: (s[0] * 0, s[1])),
    _initial("c_0 is ignored", lambda s, call: (s[0], s[1] * 0)),
    _initial("the initial state is ignored", lambda s, call: (s[0] * 0, s[1] * 0)),
    _initial("h_0 is used for c_0 too", lambda s, call: (s[0], s[0]), "not-projected"),
    *(_initial_slots(f"h_0 and c_0 {layout}", slots, needs) for layout, slots, needs in _LAYOUTS),
    _initial_slots(
        "h_0 and c_0 are read at layer + direction instead of layer * 2 + direction",
        lambda layer, direction, config: layer + direction,
        "stacked bidirectional",
    ),
    _initial_slots(
        "every layer starts from the first layer's state",
        lambda layer, direction, config: direction,
        "stacked",
    ),
    _initial("rows are sorted by length but h_0 and c_0 are not", _initial_not_sorted),
    _final("h_n and c_n are swapped", lambda s, run, call: (s[1], s[0]), "not-projected"),
    _final("h_n is returned for c_n too", lambda s, run, call: (s[0], s[0]), "not-projected"),
    _final("the final state is the initial state", lambda s, run, call: call.state),
    *(_final_slots(f"h_n and c_n {layout}", slots, needs) for layout, slots, needs in _LAYOUTS),
    _final(
        "the final state of the reverse direction is the state after its first step",
        _state_at_the_end,
        "bidirectional",
    ),
    _final("the final state is that before the last step", _state_before_last),
    _final("rows are sorted by length but h_n and c_n are not restored to their order", _final_left_sorted),
)
