"""Faults of the parameters: gate order, biases, transposition, which weights belong where."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from jaxlstm.check.faults.fault import Call, Fault, always
from jaxlstm.config import LSTMConfig

Array = np.ndarray
GATES = "ifgo"
ELSEWHERE = {"iofg": " (as in ONNX)", "igfo": " (as in haiku)", "figo": " (as in OpenVINO)"}


def faults() -> Iterator[Fault]:
    """All of them."""
    yield from _gate_orders()
    yield from _biases()
    yield from _kernels()
    yield from _places()


def _each(change: Callable[[str, Array], Array]) -> Callable[[Call], Call]:
    """A fault that changes parameters one by one, by name."""

    def apply(call: Call) -> Call:
        return replace(call, params={name: change(name, a) for name, a in call.params.items()})

    return apply


def _gate_orders() -> Iterator[Fault]:
    everything = ("weight_ih", "weight_hh", "bias_")
    for order in map("".join, itertools.permutations(GATES)):
        if order == GATES:
            continue
        read = f"in the order {', '.join(order)}{ELSEWHERE.get(order, '')}"
        yield Fault(f"the gates are read {read}", _reordered(order, everything), "gate order")
    for order in ("iofg", "igfo", "figo", "ifog"):
        read = f"in the order {', '.join(order)}"
        for cause, names in (
            (f"the gates of the weights, but not of the biases, are read {read}", everything[:2]),
            (f"the gates of weight_hh alone are read {read}", everything[1:2]),
            (f"the gates of the biases alone are read {read}", everything[2:]),
        ):
            needs_bias = "biases" in cause
            yield Fault(
                cause,
                _reordered(order, names),
                "gate order",
                (lambda config: config.bias) if needs_bias else always,
            )


def _reordered(order: str, names: tuple[str, ...]) -> Callable[[Call], Call]:
    def change(name: str, a: Array) -> Array:
        if not name.startswith(names):
            return a
        blocks = a.reshape(4, len(a) // 4, *a.shape[1:])
        return blocks[[order.index(gate) for gate in GATES]].reshape(a.shape)

    return _each(change)


def _biases() -> Iterator[Fault]:
    def fault(cause: str, apply: Callable[[Call], Call]) -> Fault:
        return Fault(cause, apply, "bias", lambda config: config.bias)

    def scaled(prefix: str, factor: float, where: str = "") -> Callable[[Call], Call]:
        return _each(
            lambda name, a: a * factor if name.startswith(prefix) and name.endswith(where) else a
        )

    def copied(source: str, target: str) -> Callable[[Call], Call]:
        return lambda call: replace(
            call,
            params={name: call.params[name.replace(target, source)] for name in call.params},
        )

    def raised(by: float) -> Callable[[Call], Call]:
        def change(name: str, a: Array) -> Array:
            if not name.startswith("bias_ih"):
                return a
            i, f, g, o = np.split(a, 4)
            return np.concatenate([i, f + by, g, o])

        return _each(change)

    yield fault("bias_hh is dropped", scaled("bias_hh", 0))
    yield fault("bias_ih is dropped", scaled("bias_ih", 0))
    yield fault("both biases are dropped", scaled("bias", 0))
    yield fault("the biases are doubled", scaled("bias", 2))
    yield fault("bias_ih is taken for bias_hh too", copied("bias_ih", "bias_hh"))
    yield fault("bias_hh is taken for bias_ih too", copied("bias_hh", "bias_ih"))
    yield fault("1 is added to the forget gate's bias", raised(1.0))
    yield fault("1 is subtracted from the forget gate's bias", raised(-1.0))
    yield replace(
        fault("the biases of the reverse direction are dropped", scaled("bias", 0, "_reverse")),
        applies=lambda config: config.bias and config.bidirectional,
    )


def _kernels() -> Iterator[Fault]:
    def square_hh(config: LSTMConfig) -> bool:
        return config.proj_size == 0

    def square_ih(config: LSTMConfig) -> bool:
        sizes = map(config.layer_input_size, range(config.num_layers))
        return config.hidden_size in sizes

    def transposed(prefix: str) -> Callable[[Call], Call]:
        def change(name: str, a: Array) -> Array:
            if not name.startswith(prefix) or a.shape[0] != 4 * a.shape[1]:
                return a
            return np.concatenate([block.T for block in np.split(a, 4)])

        return _each(change)

    def reshaped(prefix: str) -> Callable[[Call], Call]:
        return _each(lambda name, a: a.reshape(a.shape[::-1]).T if name.startswith(prefix) else a)

    for name, square in (("weight_hh", square_hh), ("weight_ih", square_ih)):
        yield Fault(f"{name} is transposed gate by gate", transposed(name), name, square)
    for name in ("weight_hh", "weight_ih"):
        yield Fault(f"{name} is reshaped where it should be transposed", reshaped(name), name)
    yield Fault(
        "weight_hr is reshaped where it should be transposed",
        reshaped("weight_hr"),
        "weight_hr",
        lambda config: config.proj_size > 1,
    )
    yield Fault("weight_hh is ignored", _each(_zero("weight_hh")), "weight_hh")


def _zero(prefix: str) -> Callable[[str, Array], Array]:
    return lambda name, a: a * 0 if name.startswith(prefix) else a


def _places() -> Iterator[Fault]:
    """Weights that are right, in the wrong layer or direction."""

    def upper(config: LSTMConfig) -> range:
        """The layers whose shapes are alike."""
        alike = config.layer_input_size(0) == config.output_size
        return range(0 if alike else 1, config.num_layers)

    def moved(of: Callable[[int, int, range], tuple[int, int]]) -> Callable[[Call], Call]:
        def apply(call: Call) -> Call:
            layers, params = upper(call.config), dict(call.params)
            for layer, reverse in itertools.product(
                range(call.config.num_layers), range(call.config.num_directions)
            ):
                source = of(layer, reverse, layers)
                for name in call.params:
                    kind, _, place = name.partition("_l")
                    if place and place == _place(layer, reverse):
                        params[name] = call.params[f"{kind}_l{_place(*source)}"]
            return replace(call, params=params)

        return apply

    def backwards(layer: int, reverse: int, layers: range) -> tuple[int, int]:
        return (layers[0] + layers[-1] - layer if layer in layers else layer), reverse

    def first(layer: int, reverse: int, layers: range) -> tuple[int, int]:
        return (layers[0] if layer in layers else layer), reverse

    def several(config: LSTMConfig) -> bool:
        return len(upper(config)) > 1

    def both(config: LSTMConfig) -> bool:
        return config.bidirectional

    yield Fault("the layers' weights are in reverse order", moved(backwards), "layer", several)
    yield Fault("every layer has the first layer's weights", moved(first), "layer", several)
    yield Fault(
        "the weights of the two directions are swapped",
        moved(lambda layer, reverse, _: (layer, 1 - reverse)),
        "direction",
        both,
    )
    yield Fault(
        "the reverse direction has the forward direction's weights",
        moved(lambda layer, reverse, _: (layer, 0)),
        "direction",
        both,
    )


def _place(layer: int, reverse: int) -> str:
    return f"{layer}_reverse" if reverse else f"{layer}"
