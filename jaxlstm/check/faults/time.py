"""Faults of time, length and direction: padding, flips, how the two directions are joined."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from jaxlstm.check.answer import Answer
from jaxlstm.check.faults.fault import Call, Fault, always
from jaxlstm.check.oracle import Direction, Equations, Result, Step
from jaxlstm.config import LSTMConfig

Array = np.ndarray
Change = Callable[..., Direction]


def _both(config: LSTMConfig) -> bool:
    return config.bidirectional


def _layers(config: LSTMConfig) -> bool:
    return config.num_layers > 1


def faults() -> Iterator[Fault]:
    """All of them."""
    yield Fault("lengths are ignored", _lengths_ignored, "length")
    yield _of_direction(
        "the reverse direction starts in the padding", _reverse_from_padding, "length", _both
    )
    yield _of_direction(
        "the state at the end of the padded time is taken for the final one", _run_through, "length"
    )
    yield _of_direction(
        "the outputs of the reverse direction are not flipped back",
        _not_flipped_back,
        "flip",
        _both,
    )
    yield _of_direction("the reverse direction runs forwards", _never_reversed, "flip", _both)
    yield _of_direction("every direction runs backwards", _all_reversed, "flip", always)
    yield Fault("the inputs' time is reversed", _inputs_reversed, "axes")
    yield Fault("the batch and time axes are swapped", _axes_swapped, "axes")
    yield Fault(
        "the reverse direction's outputs come first", _joined(lambda o: o[::-1]), "join", _both
    )
    yield Fault("the outputs of the two directions are interleaved", _interleaved, "join", _both)
    yield Fault(
        "the reverse direction's outputs come first in the last layer",
        _last_join_swapped,
        "join",
        lambda config: config.bidirectional and config.num_layers > 1,
    )
    yield Fault("the outputs are those of the first layer", _first_layer, "layer output", _layers)
    yield Fault("the outputs are shifted by one time step", _shifted, "layer output")


def _of_direction(
    cause: str, change: Change, group: str, applies: Callable[[LSTMConfig], bool] = always
) -> Fault:
    """A fault that runs a direction otherwise; ``change`` is given the run that was to be made."""

    def apply(call: Call) -> Call:
        inner = call.equations.direction

        def direction(
            eq: Equations, w: Any, x: Array, h: Array, c: Array, lengths: Array, reverse: bool
        ) -> Direction:
            def run(lengths: Array = lengths, reverse: bool = reverse) -> Direction:
                return inner(eq, w, x, h, c, lengths, reverse)

            return change(run, lengths, reverse, x.shape[0])

        return call.with_equations(direction=direction)

    return Fault(cause, apply, group, applies)


def _reverse_from_padding(
    run: Callable[..., Direction], lengths: Array, reverse: bool, time: int
) -> Direction:
    if not reverse:
        return run()
    found = run(lengths=np.full_like(lengths, time))
    return found._replace(steps=_valid(found.steps, lengths))


def _run_through(
    run: Callable[..., Direction], lengths: Array, reverse: bool, time: int
) -> Direction:
    """Forwards over the padding too; its outputs zeroed afterwards."""
    if reverse:
        return run()
    found = run(lengths=np.full_like(lengths, time))
    return found._replace(steps=_valid(found.steps, lengths))


def _not_flipped_back(
    run: Callable[..., Direction], lengths: Array, reverse: bool, time: int
) -> Direction:
    found = run()
    return found._replace(steps=_flipped(found.steps, lengths)) if reverse else found


def _never_reversed(
    run: Callable[..., Direction], lengths: Array, reverse: bool, time: int
) -> Direction:
    return run(reverse=False)


def _all_reversed(
    run: Callable[..., Direction], lengths: Array, reverse: bool, time: int
) -> Direction:
    return run(reverse=True)


def _valid(steps: Step, lengths: Array) -> Step:
    inside = np.arange(steps.h.shape[0])[:, None, None] < lengths[None, :, None]
    return Step(*(np.where(inside, a, 0) for a in steps))


def _flipped(steps: Step, lengths: Array) -> Step:
    """Each sequence flipped inside its length."""
    return Step(*(flip(a, lengths) for a in steps))


def flip(a: Array, lengths: Array) -> Array:
    """(time, batch, ...) with each row flipped inside its length; padding stays."""
    t = np.arange(a.shape[0])[:, None]
    source = np.where(t < lengths[None, :], lengths[None, :] - 1 - t, t)
    return a[source, np.arange(a.shape[1])[None, :]]


def _lengths_ignored(call: Call) -> Call:
    return replace(call, lengths=np.full_like(call.lengths, call.inputs.shape[0]))


def _inputs_reversed(call: Call) -> Call:
    return replace(call, inputs=flip(call.inputs, call.lengths))


def _axes_swapped(call: Call) -> Call:
    """Only where there are as many rows as steps can a port do this without an error."""
    if call.inputs.shape[0] != call.inputs.shape[1]:
        return call

    def back(answer: Answer, result: Result, call: Call) -> Answer:
        return answer._replace(outputs=answer.outputs.swapaxes(0, 1))

    return replace(call, inputs=call.inputs.swapaxes(0, 1)).then(back)


def _joined(change: Callable[[Sequence[Array]], Sequence[Array]]) -> Callable[[Call], Call]:
    def apply(call: Call) -> Call:
        inner = call.equations.join
        return call.with_equations(join=lambda outputs: inner(change(outputs)))

    return apply


def _interleaved(call: Call) -> Call:
    def join(outputs: Sequence[Array]) -> Array:
        stacked = np.stack(outputs, axis=-1)
        return stacked.reshape(*stacked.shape[:-2], -1)

    return call.with_equations(join=join)


def _last_join_swapped(call: Call) -> Call:
    def finish(answer: Answer, result: Result, call: Call) -> Answer:
        return answer._replace(outputs=np.roll(answer.outputs, call.config.h_size, axis=-1))

    return call.then(finish)


def _first_layer(call: Call) -> Call:
    def finish(answer: Answer, result: Result, call: Call) -> Answer:
        return answer._replace(outputs=call.equations.join([r.steps.h for r in result.record[0]]))

    return call.then(finish)


def _shifted(call: Call) -> Call:
    def finish(answer: Answer, result: Result, call: Call) -> Answer:
        shifted = np.concatenate([np.zeros_like(answer.outputs[:1]), answer.outputs[:-1]])
        inside = np.arange(len(shifted))[:, None] < call.lengths[None, :]
        return answer._replace(outputs=np.where(inside[..., None], shifted, 0))

    return call.then(finish)
