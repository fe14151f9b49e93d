"""Faults of the parameters: gate order, biases, transposition, and wrong layers or directions."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from jaxlstm.check.faults.fault import (
    Change,
    Fault,
    OracleCall,
    always,
    has_bias,
    is_bidirectional,
    is_not_projected,
)
from jaxlstm.config import LSTMConfig

Array = np.ndarray
GATES = "ifgo"
USED_BY = {"iofg": " (as in ONNX)", "igfo": " (as in haiku)", "figo": " (as in OpenVINO)"}


def faults() -> Iterator[Fault]:
    """Yield every fault of the parameters."""
    yield from _gate_orders()
    yield from _biases()
    yield from _matrices()
    yield from _places()


def _each(change: Callable[[str, Array], Array]) -> Change:
    """Return a fault that changes the parameters one by one."""

    def apply(call: OracleCall) -> OracleCall:
        return replace(call, params={name: change(name, a) for name, a in call.params.items()})

    return apply


def _gate_orders() -> Iterator[Fault]:
    everything = ("weight_ih", "weight_hh", "bias_")
    for order in map("".join, itertools.permutations(GATES)):
        if order != GATES:
            cause = f"the gates are read in the order {', '.join(order)}{USED_BY.get(order, '')}"
            yield Fault(cause, _reordered(order, everything), "gate order")
    for order in ("iofg", "igfo", "figo", "ifog"):
        for gates, prefixes, applies in (
            ("the gates of the weights, but not of the biases,", everything[:2], has_bias),
            ("only the gates of weight_hh", everything[1:2], always),
            ("only the gates of the biases", everything[2:], has_bias),
        ):
            cause = f"{gates} are read in the order {', '.join(order)}"
            yield Fault(cause, _reordered(order, prefixes), "gate order", applies)


def _reordered(order: str, prefixes: tuple[str, ...]) -> Change:
    def change(name: str, a: Array) -> Array:
        if not name.startswith(prefixes):
            return a
        blocks = a.reshape(4, len(a) // 4, *a.shape[1:])
        return blocks[[order.index(gate) for gate in GATES]].reshape(a.shape)

    return _each(change)


def _scaled(prefix: str, factor: float, suffix: str = "") -> Change:
    return _each(
        lambda name, a: a * factor if name.startswith(prefix) and name.endswith(suffix) else a
    )


def _biases() -> Iterator[Fault]:
    def fault(cause: str, apply: Change) -> Fault:
        return Fault(cause, apply, "bias", has_bias)

    def copied(source: str, target: str) -> Change:
        return lambda call: replace(
            call,
            params={name: call.params[name.replace(target, source)] for name in call.params},
        )

    def forget_bias_raised(by: float) -> Change:
        def change(name: str, a: Array) -> Array:
            if not name.startswith("bias_ih"):
                return a
            i, f, g, o = np.split(a, 4)
            return np.concatenate([i, f + by, g, o])

        return _each(change)

    yield fault("bias_hh is dropped", _scaled("bias_hh", 0))
    yield fault("bias_ih is dropped", _scaled("bias_ih", 0))
    yield fault("both biases are dropped", _scaled("bias", 0))
    yield fault("the biases are doubled", _scaled("bias", 2))
    yield fault("bias_ih is used for bias_hh too", copied("bias_ih", "bias_hh"))
    yield fault("bias_hh is used for bias_ih too", copied("bias_hh", "bias_ih"))
    yield fault("1 is added to the forget gate's bias", forget_bias_raised(1.0))
    yield fault("1 is subtracted from the forget gate's bias", forget_bias_raised(-1.0))
    yield Fault(
        "the biases of the reverse direction are dropped",
        _scaled("bias", 0, "_reverse"),
        "bias",
        lambda config: has_bias(config) and is_bidirectional(config),
    )


def _matrices() -> Iterator[Fault]:
    def has_square_ih(config: LSTMConfig) -> bool:
        sizes = map(config.layer_input_size, range(config.num_layers))
        return config.hidden_size in sizes

    def transposed(prefix: str) -> Change:
        def change(name: str, a: Array) -> Array:
            if not name.startswith(prefix) or a.shape[0] != 4 * a.shape[1]:
                return a
            return np.concatenate([block.T for block in np.split(a, 4)])

        return _each(change)

    def reshaped(prefix: str) -> Change:
        return _each(lambda name, a: a.reshape(a.shape[::-1]).T if name.startswith(prefix) else a)

    for name, is_square in (("weight_hh", is_not_projected), ("weight_ih", has_square_ih)):
        yield Fault(f"{name} is transposed gate by gate", transposed(name), name, is_square)
    for name, applies in (
        ("weight_hh", always),
        ("weight_ih", always),
        ("weight_hr", lambda config: config.proj_size > 1),
    ):
        cause = f"{name} is reshaped instead of transposed"
        yield Fault(cause, reshaped(name), name, applies)
    yield Fault("weight_hh is ignored", _scaled("weight_hh", 0), "weight_hh")


def _places() -> Iterator[Fault]:
    """Yield the faults that use the right weights in the wrong layer or direction."""

    def alike(config: LSTMConfig) -> range:
        """Return the layers that have the same shapes."""
        same = config.layer_input_size(0) == config.output_size
        return range(0 if same else 1, config.num_layers)

    def moved(source: Callable[[int, int, range], tuple[int, int]]) -> Change:
        """Take the weights of (layer, reverse) from ``source(layer, reverse, layers)``."""

        def apply(call: OracleCall) -> OracleCall:
            layers, params = alike(call.config), dict(call.params)
            for layer, reverse in itertools.product(
                range(call.config.num_layers), range(call.config.num_directions)
            ):
                for name in call.params:
                    kind, _, place = name.partition("_l")
                    if place and place == _place(layer, reverse):
                        origin = _place(*source(layer, reverse, layers))
                        params[name] = call.params[f"{kind}_l{origin}"]
            return replace(call, params=params)

        return apply

    def backwards(layer: int, reverse: int, layers: range) -> tuple[int, int]:
        return (layers[0] + layers[-1] - layer if layer in layers else layer), reverse

    def first(layer: int, reverse: int, layers: range) -> tuple[int, int]:
        return (layers[0] if layer in layers else layer), reverse

    def has_several_alike(config: LSTMConfig) -> bool:
        return len(alike(config)) > 1

    yield Fault(
        "the layers' weights are in reverse order", moved(backwards), "layer", has_several_alike
    )
    yield Fault(
        "every layer has the first layer's weights", moved(first), "layer", has_several_alike
    )
    yield Fault(
        "the weights of the two directions are swapped",
        moved(lambda layer, reverse, _: (layer, 1 - reverse)),
        "direction",
        is_bidirectional,
    )
    yield Fault(
        "the reverse direction has the forward direction's weights",
        moved(lambda layer, reverse, _: (layer, 0)),
        "direction",
        is_bidirectional,
    )


def _place(layer: int, reverse: int) -> str:
    return f"{layer}_reverse" if reverse else f"{layer}"
