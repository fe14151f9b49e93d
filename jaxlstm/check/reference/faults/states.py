"""Faults of the initial and final states: which is which, their order and their layout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from jaxlstm.check.reference.faults.fault import Fault
from jaxlstm.check.reference.oracle import OracleCall, OracleRun
from jaxlstm.layer.config import LSTMConfig

Array = np.ndarray
State = tuple[Array, Array]
SlotOf = Callable[[int, int, LSTMConfig], int]
"""(layer, direction, config) -> the slot of that state in another layout."""


def _initial(cause: str, change: Callable[[State, OracleCall], State], needs: str = "") -> Fault:
    return Fault(cause, lambda call: replace(call, state=change(call.state, call)), "initial state", needs)


def _final(cause: str, change: Callable[[State, OracleRun, OracleCall], State], needs: str = "") -> Fault:
    def finish(run: OracleRun, call: OracleCall) -> OracleRun:
        h_n, c_n = change((run.h_n, run.c_n), run, call)
        return run._replace(h_n=h_n, c_n=c_n)

    return Fault(cause, lambda call: call.then(finish), "final state", needs)


def _taken(state: State, index: Any) -> State:
    return state[0][index], state[1][index]


def _slots(slot_of: SlotOf, config: LSTMConfig) -> list[int]:
    slots = np.ndindex(config.num_layers, config.num_directions)
    return [slot_of(layer, direction, config) for layer, direction in slots]


def _initial_slots(cause: str, slot_of: SlotOf, needs: str) -> Fault:
    return _initial(cause, lambda state, call: _taken(state, _slots(slot_of, call.config)), needs)


def _final_slots(cause: str, slot_of: SlotOf, needs: str) -> Fault:
    return _final(
        cause, lambda state, _, call: _taken(state, np.argsort(_slots(slot_of, call.config))), needs
    )


def _by_length(call: OracleCall) -> Array:
    return np.argsort(-call.lengths, kind="stable")


def _initial_not_sorted(state: State, call: OracleCall) -> State:
    return _taken(state, np.s_[:, np.argsort(_by_length(call), kind="stable")])


def _state_at_the_end(state: State, run: OracleRun, call: OracleCall) -> State:
    last, rows = call.lengths - 1, np.arange(len(call.lengths))
    steps = [direction.steps for layer in run.record for direction in layer]
    return np.stack([s.h[last, rows] for s in steps]), np.stack([s.c[last, rows] for s in steps])


def _state_before_last(state: State, run: OracleRun, call: OracleCall) -> State:
    rows = np.arange(len(call.lengths))
    last = [call.lengths - 1, np.zeros_like(call.lengths)]
    ends = [(d, last[reverse]) for layer in run.record for reverse, d in enumerate(layer)]
    return np.stack([d.h_prev[t, rows] for d, t in ends]), np.stack([d.c_prev[t, rows] for d, t in ends])


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
    _final(
        "rows are sorted by length but h_n and c_n are not restored to their order",
        lambda state, _, call: _taken(state, np.s_[:, _by_length(call)]),
    ),
)
