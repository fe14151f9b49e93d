"""Faults of time, lengths and directions: padding, flips, and the join of the two directions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from jaxlstm.check.faults.fault import (
    Applies,
    Change,
    Fault,
    OracleCall,
    always,
    is_bidirectional,
    is_stacked,
    is_stacked_bidirectional,
)
from jaxlstm.check.reference.oracle import DirectionRun, Equations, OracleRun, Step
from jaxlstm.check.reference.results import Results

Array = np.ndarray
RunDirection = Callable[..., DirectionRun]
ChangeDirection = Callable[[RunDirection, Array, bool, int], DirectionRun]
"""(run, lengths, reverse, time) -> run; ``run(lengths=..., reverse=...)`` overrides the arguments."""


def faults() -> Iterator[Fault]:
    """Yield every fault of time, lengths and directions."""
    yield Fault("the lengths are ignored", _lengths_ignored, "length")
    yield _of_direction(
        "the reverse direction starts in the padding",
        _reverse_from_padding,
        "length",
        is_bidirectional,
    )
    yield _of_direction(
        "the final state is taken at the end of the padding", _through_padding, "length"
    )
    yield _of_direction(
        "the outputs of the reverse direction are not flipped back",
        _not_flipped_back,
        "flip",
        is_bidirectional,
    )
    yield _of_direction(
        "the reverse direction runs forwards", _never_reversed, "flip", is_bidirectional
    )
    yield _of_direction("every direction runs backwards", _always_reversed, "flip")
    yield Fault("the inputs are reversed in time", _inputs_reversed, "axes")
    yield Fault("the batch and time axes are swapped", _axes_swapped, "axes")
    yield Fault(
        "the reverse direction's outputs come first", _reverse_first, "join", is_bidirectional
    )
    yield Fault(
        "the outputs of the two directions are interleaved", _interleaved, "join", is_bidirectional
    )
    yield Fault(
        "the reverse direction's outputs come first in the last layer",
        _reverse_first_in_last_layer,
        "join",
        is_stacked_bidirectional,
    )
    yield Fault("the outputs are the first layer's", _first_layer, "layer output", is_stacked)
    yield Fault("the outputs are shifted by one time step", _shifted, "layer output")


def _of_direction(
    cause: str, change: ChangeDirection, group: str, applies: Applies = always
) -> Fault:
    """Return a fault that runs each direction in another way."""

    def apply(call: OracleCall) -> OracleCall:
        inner = call.equations.direction

        def direction(
            eq: Equations, w: Any, x: Array, h: Array, c: Array, lengths: Array, reverse: bool
        ) -> DirectionRun:
            def run(lengths: Array = lengths, reverse: bool = reverse) -> DirectionRun:
                return inner(eq, w, x, h, c, lengths, reverse)

            return change(run, lengths, reverse, x.shape[0])

        return call.with_equations(direction=direction)

    return Fault(cause, apply, group, applies)


def _run_over_padding(run: RunDirection, lengths: Array, time: int) -> DirectionRun:
    """Run over the padding too, and zero the outputs there."""
    found = run(lengths=np.full_like(lengths, time))
    valid = np.arange(time)[:, None, None] < lengths[None, :, None]
    return found._replace(steps=Step(*(np.where(valid, a, 0) for a in found.steps)))


def _reverse_from_padding(
    run: RunDirection, lengths: Array, reverse: bool, time: int
) -> DirectionRun:
    return _run_over_padding(run, lengths, time) if reverse else run()


def _through_padding(run: RunDirection, lengths: Array, reverse: bool, time: int) -> DirectionRun:
    return run() if reverse else _run_over_padding(run, lengths, time)


def _not_flipped_back(run: RunDirection, lengths: Array, reverse: bool, time: int) -> DirectionRun:
    found = run()
    if not reverse:
        return found
    return found._replace(steps=Step(*(flip(a, lengths) for a in found.steps)))


def _never_reversed(run: RunDirection, lengths: Array, reverse: bool, time: int) -> DirectionRun:
    return run(reverse=False)


def _always_reversed(run: RunDirection, lengths: Array, reverse: bool, time: int) -> DirectionRun:
    return run(reverse=True)


def flip(a: Array, lengths: Array) -> Array:
    """Flip each row of (time, batch, ...) inside its length. The padding stays in place."""
    t = np.arange(a.shape[0])[:, None]
    source = np.where(t < lengths[None, :], lengths[None, :] - 1 - t, t)
    return a[source, np.arange(a.shape[1])[None, :]]


def _lengths_ignored(call: OracleCall) -> OracleCall:
    return replace(call, lengths=np.full_like(call.lengths, call.inputs.shape[0]))


def _inputs_reversed(call: OracleCall) -> OracleCall:
    return replace(call, inputs=flip(call.inputs, call.lengths))


def _axes_swapped(call: OracleCall) -> OracleCall:
    # Only a batch with as many rows as steps runs in a port with this fault.
    if call.inputs.shape[0] != call.inputs.shape[1]:
        return call

    def swap_back(results: Results, run: OracleRun, call: OracleCall) -> Results:
        return results._replace(outputs=results.outputs.swapaxes(0, 1))

    return replace(call, inputs=call.inputs.swapaxes(0, 1)).then(swap_back)


def _reverse_first(call: OracleCall) -> OracleCall:
    inner = call.equations.join
    return call.with_equations(join=lambda outputs: inner(outputs[::-1]))


def _interleaved(call: OracleCall) -> OracleCall:
    def join(outputs: Sequence[Array]) -> Array:
        stacked = np.stack(outputs, axis=-1)
        return stacked.reshape(*stacked.shape[:-2], -1)

    return call.with_equations(join=join)


def _changing_outputs(change: Callable[[Array, OracleRun, OracleCall], Array]) -> Change:
    """Return a fault that changes only the outputs."""

    def finish(results: Results, run: OracleRun, call: OracleCall) -> Results:
        return results._replace(outputs=change(results.outputs, run, call))

    return lambda call: call.then(finish)


@_changing_outputs
def _reverse_first_in_last_layer(outputs: Array, run: OracleRun, call: OracleCall) -> Array:
    return np.roll(outputs, call.config.h_size, axis=-1)


@_changing_outputs
def _first_layer(outputs: Array, run: OracleRun, call: OracleCall) -> Array:
    return call.equations.join([direction.steps.h for direction in run.record[0]])


@_changing_outputs
def _shifted(outputs: Array, run: OracleRun, call: OracleCall) -> Array:
    shifted = np.concatenate([np.zeros_like(outputs[:1]), outputs[:-1]])
    valid = np.arange(len(shifted))[:, None] < call.lengths[None, :]
    return np.where(valid[..., None], shifted, 0)
