"""Faults of time, lengths and directions: padding, flips, and the join of the two directions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from jaxlstm.check.cases.results import Results
from jaxlstm.check.reference.faults.fault import Fault, OracleCall
from jaxlstm.check.reference.oracle import DirectionRun, Equations, OracleRun, Step

Array = np.ndarray
RunDirection = Callable[..., DirectionRun]
ChangeDirection = Callable[[RunDirection, Array, bool, int], DirectionRun]
"""(run, lengths, reverse, time) -> run; ``run(lengths=..., reverse=...)`` overrides the arguments."""


def _direction(cause: str, change: ChangeDirection, group: str, needs: str = "") -> Fault:
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

    return Fault(cause, apply, group, needs)


def _outputs(
    cause: str, change: Callable[[Array, OracleRun, OracleCall], Array], group: str, needs: str = ""
) -> Fault:
    """Return a fault that changes only the outputs."""

    def finish(results: Results, run: OracleRun, call: OracleCall) -> Results:
        return results.with_outputs(outputs=change(results.outputs["outputs"], run, call))

    return Fault(cause, lambda call: call.then(finish), group, needs)


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

    def swap_back(results: Results, run: OracleRun, call: OracleCall) -> Results:
        return results.with_outputs(outputs=results.outputs["outputs"].swapaxes(0, 1))

    return replace(call, inputs=call.inputs.swapaxes(0, 1)).then(swap_back)


def _reverse_first(call: OracleCall) -> OracleCall:
    inner = call.equations.join
    return call.with_equations(join=lambda outputs: inner(outputs[::-1]))


def _interleaved(outputs: Sequence[Array]) -> Array:
    stacked = np.stack(outputs, axis=-1)
    return stacked.reshape(*stacked.shape[:-2], -1)


def _shifted(outputs: Array, run: OracleRun, call: OracleCall) -> Array:
    shifted = np.concatenate([np.zeros_like(outputs[:1]), outputs[:-1]])
    valid = np.arange(len(shifted))[:, None] < call.lengths[None, :]
    return np.where(valid[..., None], shifted, 0)


FAULTS = (
    Fault(
        "the lengths are ignored",
        lambda call: replace(call, lengths=np.full_like(call.lengths, call.inputs.shape[0])),
        "length",
    ),
    _direction(
        "the reverse direction starts in the padding",
        lambda run, lengths, reverse, time: _run_over_padding(run, lengths, time) if reverse else run(),
        "length",
        "bidirectional",
    ),
    _direction(
        "the final state is taken at the end of the padding",
        lambda run, lengths, reverse, time: run() if reverse else _run_over_padding(run, lengths, time),
        "length",
    ),
    _direction(
        "the outputs of the reverse direction are not flipped back",
        _not_flipped_back,
        "flip",
        "bidirectional",
    ),
    _direction(
        "the reverse direction runs forwards",
        lambda run, lengths, reverse, time: run(reverse=False),
        "flip",
        "bidirectional",
    ),
    _direction(
        "every direction runs backwards", lambda run, lengths, reverse, time: run(reverse=True), "flip"
    ),
    Fault(
        "the inputs are reversed in time",
        lambda call: replace(call, inputs=_flip(call.inputs, call.lengths)),
        "axes",
    ),
    Fault("the batch and time axes are swapped", _axes_swapped, "axes"),
    Fault("the reverse direction's outputs come first", _reverse_first, "join", "bidirectional"),
    Fault(
        "the outputs of the two directions are interleaved",
        lambda call: call.with_equations(join=_interleaved),
        "join",
        "bidirectional",
    ),
    _outputs(
        "the reverse direction's outputs come first in the last layer",
        lambda outputs, run, call: np.roll(outputs, call.config.h_size, axis=-1),
        "join",
        "stacked bidirectional",
    ),
    _outputs(
        "the outputs are the first layer's",
        lambda outputs, run, call: call.equations.join([d.steps.h for d in run.record[0]]),
        "layer output",
        "stacked",
    ),
    _outputs("the outputs are shifted by one time step", _shifted, "layer output"),
)
