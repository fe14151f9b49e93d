"""Faults of the initial and final states: order, layout, which is which."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from jaxlstm.check import oracle
from jaxlstm.check.answer import Answer
from jaxlstm.check.faults.fault import Call, Fault, always
from jaxlstm.config import LSTMConfig

Array = np.ndarray
Slots = Callable[[LSTMConfig], list[int]]


def faults() -> Iterator[Fault]:
    """All of them."""
    yield from _initial()
    yield from _final()


def _direction_major(config: LSTMConfig) -> list[int]:
    """For each slot (layer, direction), the slot of the layout (direction, layer)."""
    layers, directions = config.num_layers, config.num_directions
    return [d * layers + k for k in range(layers) for d in range(directions)]


def _layers_reversed(config: LSTMConfig) -> list[int]:
    layers, directions = config.num_layers, config.num_directions
    return [(layers - 1 - k) * directions + d for k in range(layers) for d in range(directions)]


def _directions_swapped(config: LSTMConfig) -> list[int]:
    return [slot ^ 1 for slot in range(config.num_layers * 2)]


def _stride_one(config: LSTMConfig) -> list[int]:
    """Slot layer + direction in place of layer * D + direction."""
    return [k + d for k in range(config.num_layers) for d in range(config.num_directions)]


def _first_layer(config: LSTMConfig) -> list[int]:
    return list(range(config.num_directions)) * config.num_layers


def _several_layers(config: LSTMConfig) -> bool:
    return config.num_layers > 1


def _both(config: LSTMConfig) -> bool:
    return config.bidirectional


def _several_of_both(config: LSTMConfig) -> bool:
    return config.bidirectional and config.num_layers > 1


def _plain(config: LSTMConfig) -> bool:
    return config.proj_size == 0  # h and c have one shape


_LAYOUTS: tuple[tuple[str, Slots, Callable[[LSTMConfig], bool]], ...] = (
    ("are laid out direction by direction", _direction_major, _several_of_both),
    ("have the layers in reverse order", _layers_reversed, _several_layers),
    ("have the two directions swapped", _directions_swapped, _both),
)


def _initial() -> Iterator[Fault]:
    def fault(
        cause: str,
        change: Callable[[Call, Array, Array], tuple[Array, Array]],
        applies: Callable[[LSTMConfig], bool] = always,
    ) -> Fault:
        def apply(call: Call) -> Call:
            return replace(call, state=change(call, *call.state))

        return Fault(cause, apply, "initial state", applies)

    def taken(slots: Slots) -> Callable[[Call, Array, Array], tuple[Array, Array]]:
        return lambda call, h, c: (h[slots(call.config)], c[slots(call.config)])

    yield fault("h_0 and c_0 are swapped", lambda call, h, c: (c, h), _plain)
    yield fault("h_0 is ignored", lambda call, h, c: (h * 0, c))
    yield fault("c_0 is ignored", lambda call, h, c: (h, c * 0))
    yield fault("the initial state is ignored", lambda call, h, c: (h * 0, c * 0))
    yield fault("h_0 is taken for c_0 too", lambda call, h, c: (h, h), _plain)
    for said, slots, applies in _LAYOUTS:
        yield fault(f"h_0 and c_0 {said}", taken(slots), applies)
    yield fault(
        "h_0 and c_0 are read at layer + direction, not at layer * 2 + direction",
        taken(_stride_one),
        _several_of_both,
    )
    yield fault(
        "every layer starts from the first layer's state", taken(_first_layer), _several_layers
    )
    yield fault(
        "rows are sorted by length and h_0 and c_0 are not",
        lambda call, h, c: _unsorted(call, h, c),
    )


def _unsorted(call: Call, h: Array, c: Array) -> tuple[Array, Array]:
    rank = np.argsort(np.argsort(-call.lengths, kind="stable"), kind="stable")
    return h[:, rank], c[:, rank]


def _final() -> Iterator[Fault]:
    def fault(
        cause: str,
        change: Callable[[Answer, oracle.Result, Call], tuple[Array, Array]],
        applies: Callable[[LSTMConfig], bool] = always,
    ) -> Fault:
        def finish(answer: Answer, result: oracle.Result, call: Call) -> Answer:
            h_n, c_n = change(answer, result, call)
            return answer._replace(h_n=h_n, c_n=c_n)

        return Fault(cause, lambda call: call.then(finish), "final state", applies)

    def given(slots: Slots) -> Callable[[Answer, oracle.Result, Call], tuple[Array, Array]]:
        """The slots of ``slots(config)``, one after the other, in the place of 0, 1, 2, ..."""

        def change(answer: Answer, result: oracle.Result, call: Call) -> tuple[Array, Array]:
            order = np.argsort(slots(call.config))
            h_n, c_n = _states(answer)
            return h_n[order], c_n[order]

        return change

    yield fault("h_n and c_n are swapped", lambda a, r, call: _swapped(*_states(a)), _plain)
    yield fault("h_n is given for c_n too", lambda a, r, call: _twice(_states(a)[0]), _plain)
    yield fault("the final state is the initial state", lambda a, r, call: call.state)
    for said, slots, applies in _LAYOUTS:
        yield fault(f"h_n and c_n {said}", given(slots), applies)
    yield fault(
        "the final state of the reverse direction is that of its first step, at the end of time",
        lambda a, r, call: _at_the_end(r, call),
        _both,
    )
    yield fault(
        "the final state is that before the last step",
        lambda a, r, call: _before_last(r, call),
    )
    yield fault(
        "rows are sorted by length and h_n and c_n are not put back",
        lambda a, r, call: _left_sorted(a, call),
    )


def _states(answer: Answer) -> tuple[Array, Array]:
    assert answer.h_n is not None
    assert answer.c_n is not None
    return answer.h_n, answer.c_n


def _swapped(h_n: Array, c_n: Array) -> tuple[Array, Array]:
    return c_n, h_n


def _twice(h_n: Array) -> tuple[Array, Array]:
    return h_n, h_n


def _left_sorted(answer: Answer, call: Call) -> tuple[Array, Array]:
    order = np.argsort(-call.lengths, kind="stable")
    h_n, c_n = _states(answer)
    return h_n[:, order], c_n[:, order]


def _at_the_end(result: oracle.Result, call: Call) -> tuple[Array, Array]:
    last, rows = call.lengths - 1, np.arange(len(call.lengths))
    runs = [run for layer in result.record for run in layer]
    h_n = np.stack([run.steps.h[last, rows] for run in runs])
    c_n = np.stack([run.steps.c[last, rows] for run in runs])
    return h_n, c_n


def _before_last(result: oracle.Result, call: Call) -> tuple[Array, Array]:
    rows = np.arange(len(call.lengths))
    h_n, c_n = [], []
    for layer in result.record:
        for reverse, run in enumerate(layer):
            last = np.zeros_like(call.lengths) if reverse else call.lengths - 1
            h_n.append(run.h_prev[last, rows])
            c_n.append(run.c_prev[last, rows])
    return np.stack(h_n), np.stack(c_n)
