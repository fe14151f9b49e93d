"""Faults of states, of time and of directions: exchanged states, layouts, padding, flips and joins."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from jaxlstm.check.cases.case import Array
from jaxlstm.check.reference.faults.fault import Change, Fault
from jaxlstm.check.reference.oracle import DirectionRun, Equations, OracleCall, OracleRun, Step
from jaxlstm.layer.config import LSTMConfig

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


def _state_at_the_end(state: State, run: OracleRun, call: OracleCall) -> State:
    last, rows = call.lengths - 1, np.arange(len(call.lengths))
    steps = [direction.steps for layer in run.record for direction in layer]
    return np.stack([s.h[last, rows] for s in steps]), np.stack([s.c[last, rows] for s in steps])


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

STATES = (
    _initial("h_0 and c_0 are swapped", lambda s, call: (s[1], s[0]), "not-projected"),
    _initial("h_0 is ignored", lambda s, call: (s[0] * 0, s[1])),
    _initial("c_0 is ignored", lambda s, call: (s[0], s[1] * 0)),
    _initial("the initial state is ignored", lambda s, call: (s[0] * 0, s[1] * 0)),
    *(_initial_slots(f"h_0 and c_0 {layout}", slots, needs) for layout, slots, needs in _LAYOUTS),
    _initial_slots(
        "h_0 and c_0 are read at layer + direction instead of layer * 2 + direction",
        lambda layer, direction, config: layer + direction,
        "stacked bidirectional",
    ),
    _final("h_n and c_n are swapped", lambda s, run, call: (s[1], s[0]), "not-projected"),
    *(_final_slots(f"h_n and c_n {layout}", slots, needs) for layout, slots, needs in _LAYOUTS),
    _final(
        "the final state of the reverse direction is the state after its first step",
        _state_at_the_end,
        "bidirectional",
    ),
)


RunDirection = Callable[..., DirectionRun]
ChangeDirection = Callable[[RunDirection, Array, bool, int], DirectionRun]
"""(run, lengths, reverse, time) -> run; ``run(lengths=..., reverse=...)`` overrides the arguments."""


def _direction(change: ChangeDirection) -> Change:
    """Return the change that runs each direction in another way."""

    def apply(call: OracleCall) -> OracleCall:
        inner = call.equations.direction

        def direction(
            eq: Equations, w: Any, x: Array, h: Array, c: Array, lengths: Array, reverse: bool
        ) -> DirectionRun:
            def run(lengths: Array = lengths, reverse: bool = reverse) -> DirectionRun:
                return inner(eq, w, x, h, c, lengths, reverse)

            return change(run, lengths, reverse, x.shape[0])

        return call.with_equations(direction=direction)

    return apply


def _outputs(change: Callable[[OracleRun, OracleCall], Array]) -> Change:
    """Return a change of the outputs only."""
    return lambda call: call.then(lambda run, call: run._replace(outputs=change(run, call)))


def _run_over_padding(run: RunDirection, lengths: Array, time: int) -> DirectionRun:
    """Run over the padding too, and zero the outputs there."""
    found = run(lengths=np.full_like(lengths, time))
    valid = np.arange(time)[:, None, None] < lengths[None, :, None]
    return found._replace(steps=Step(*(np.where(valid, a, 0) for a in found.steps)))


def _not_flipped_back(run: RunDirection, lengths: Array, reverse: bool, time: int) -> DirectionRun:
    found = run()
    if not reverse:
        return found
    return found._replace(steps=Step(*(_flip(a, lengths) for a in found.steps)))


def _flip(a: Array, lengths: Array) -> Array:
    """Flip each row of (time, batch, ...) inside its length. The padding stays in place."""
    t = np.arange(a.shape[0])[:, None]
    source = np.where(t < lengths[None, :], lengths[None, :] - 1 - t, t)
    return a[source, np.arange(a.shape[1])[None, :]]


def _axes_swapped(call: OracleCall) -> OracleCall:
    # Only a batch with as many rows as steps runs in a port with this fault.
    if call.inputs.shape[0] != call.inputs.shape[1]:
        return call
    swap_back = _outputs(lambda run, call: run.outputs.swapaxes(0, 1))
    return swap_back(replace(call, inputs=call.inputs.swapaxes(0, 1)))


def _reverse_first(call: OracleCall) -> OracleCall:
    inner = call.equations.join
    return call.with_equations(join=lambda outputs: inner(outputs[::-1]))


TIME = (
    Fault(
        "the lengths are ignored",
        lambda call: replace(call, lengths=np.full_like(call.lengths, call.inputs.shape[0])),
        "length",
    ),
    Fault(
        "the reverse direction starts in the padding",
        _direction(
            lambda run, lengths, reverse, time: _run_over_padding(run, lengths, time) if reverse else run()
        ),
        "length",
        "bidirectional",
    ),
    Fault(
        "the final state is taken at the end of the padding",
        _direction(
            lambda run, lengths, reverse, time: run() if reverse else _run_over_padding(run, lengths, time)
        ),
        "length",
    ),
    Fault(
        "the outputs of the reverse direction are not flipped back",
        _direction(_not_flipped_back),
        "flip",
        "bidirectional",
    ),
    Fault(
        "the reverse direction runs forwards",
        _direction(lambda run, *_: run(reverse=False)),
        "flip",
        "bidirectional",
    ),
    Fault("the batch and time axes are swapped", _axes_swapped, "axes"),
    Fault("the reverse direction's outputs come first", _reverse_first, "join", "bidirectional"),
    Fault(
        "the reverse direction's outputs come first in the last layer",
        _outputs(lambda run, call: np.roll(run.outputs, call.config.h_size, axis=-1)),
        "join",
        "stacked bidirectional",
    ),
)
