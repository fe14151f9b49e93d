"""Faults of time, lengths and directions: padding, flips, and the join of the two directions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from jaxlstm.check.reference.faults.fault import Change, Fault, equations
from jaxlstm.check.reference.oracle import DirectionRun, Equations, OracleCall, OracleRun, Step

Array = np.ndarray
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
    """Return the change of the outputs alone."""
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


def _interleaved(outputs: Sequence[Array]) -> Array:
    stacked = np.stack(outputs, axis=-1)
    return stacked.reshape(*stacked.shape[:-2], -1)


def _shifted(run: OracleRun, call: OracleCall) -> Array:
    shifted = np.concatenate([np.zeros_like(run.outputs[:1]), run.outputs[:-1]])
    valid = np.arange(len(shifted))[:, None] < call.lengths[None, :]
    return np.where(valid[..., None], shifted, 0)


FAULTS = (
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
    Fault("every direction runs backwards", _direction(lambda run, *_: run(reverse=True)), "flip"),
    Fault(
        "the inputs are reversed in time",
        lambda call: replace(call, inputs=_flip(call.inputs, call.lengths)),
        "axes",
    ),
    Fault("the batch and time axes are swapped", _axes_swapped, "axes"),
    Fault("the reverse direction's outputs come first", _reverse_first, "join", "bidirectional"),
    Fault(
        "the outputs of the two directions are interleaved",
        equations(join=_interleaved),
        "join",
        "bidirectional",
    ),
    Fault(
        "the reverse direction's outputs come first in the last layer",
        _outputs(lambda run, call: np.roll(run.outputs, call.config.h_size, axis=-1)),
        "join",
        "stacked bidirectional",
    ),
    Fault(
        "the outputs are the first layer's",
        _outputs(lambda run, call: call.equations.join([d.steps.h for d in run.record[0]])),
        "layer output",
        "stacked",
    ),
    Fault("the outputs are shifted by one time step", _outputs(_shifted), "layer output"),
)
