"""Faults of the parameters: gate order, biases, transposition, and wrong layers or directions."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from jaxlstm.check.reference.faults.fault import Change, Fault, layers_alike
from jaxlstm.check.reference.oracle import OracleCall

Array = np.ndarray
GATES = "ifgo"
_USED_BY = {"iofg": " (as in ONNX)", "igfo": " (as in haiku)", "figo": " (as in OpenVINO)"}


def _each(prefix: str | tuple[str, ...], change: Callable[[Array], Array], suffix: str = "") -> Change:
    """Return a fault that changes each parameter whose name starts and ends with the given strings."""

    def apply(call: OracleCall) -> OracleCall:
        chosen = {n for n in call.params if n.startswith(prefix) and n.endswith(suffix)}
        params = {n: change(a) if n in chosen else a for n, a in call.params.items()}
        return replace(call, params=params)

    return apply


def _reordered(order: str) -> Change:
    def change(a: Array) -> Array:
        blocks = a.reshape(4, len(a) // 4, *a.shape[1:])
        return blocks[[order.index(gate) for gate in GATES]].reshape(a.shape)

    return _each(("weight_ih", "weight_hh", "bias_"), change)


def _scaled(prefix: str, factor: float) -> Change:
    return _each(prefix, lambda a: a * factor)


def _copied(source: str, target: str) -> Change:
    return lambda call: replace(
        call, params={name: call.params[name.replace(target, source)] for name in call.params}
    )


def _with_forget_bias(a: Array) -> Array:
    i, f, g, o = np.split(a, 4)
    return np.concatenate([i, f + 1, g, o])


def _transposed(prefix: str) -> Change:
    def change(a: Array) -> Array:
        is_square = a.shape[0] == 4 * a.shape[1]
        return np.concatenate([block.T for block in np.split(a, 4)]) if is_square else a

    return _each(prefix, change)


def _reshaped(prefix: str) -> Change:
    return _each(prefix, lambda a: a.reshape(a.shape[::-1]).T)


def _moved(source: Callable[[int, int, range], tuple[int, int]]) -> Change:
    """Take the weights of (layer, reverse) from ``source(layer, reverse, layers_alike)``."""

    def apply(call: OracleCall) -> OracleCall:
        layers, params = layers_alike(call.config), dict(call.params)
        for layer, reverse in np.ndindex(call.config.num_layers, call.config.num_directions):
            origin = _suffix(*source(layer, reverse, layers))
            for name in call.params:
                kind, _, _ = name.partition("_l")
                if name == kind + _suffix(layer, reverse):
                    params[name] = call.params[kind + origin]
        return replace(call, params=params)

    return apply


def _suffix(layer: int, reverse: int) -> str:
    return f"_l{layer}_reverse" if reverse else f"_l{layer}"


def _backwards(layer: int, reverse: int, layers: range) -> tuple[int, int]:
    return (layers[0] + layers[-1] - layer if layer in layers else layer), reverse


def _first(layer: int, reverse: int, layers: range) -> tuple[int, int]:
    return (layers[0] if layer in layers else layer), reverse


def _bias(cause: str, change: Change) -> Fault:
    return Fault(cause, change, "bias", "bias")


FAULTS = (
    *(
        Fault(
            f"the gates are read in the order {', '.join(order)}{_USED_BY.get(order, '')}",
            _reordered(order),
            "gate order",
        )
        for order in map("".join, itertools.permutations(GATES))
        if order != GATES
    ),
    _bias("bias_hh is dropped", _scaled("bias_hh", 0)),
    _bias("bias_ih is dropped", _scaled("bias_ih", 0)),
    _bias("both biases are dropped", _scaled("bias", 0)),
    _bias("the biases are doubled", _scaled("bias", 2)),
    _bias("bias_ih is used for bias_hh too", _copied("bias_ih", "bias_hh")),
    _bias("bias_hh is used for bias_ih too", _copied("bias_hh", "bias_ih")),
    _bias("1 is added to the forget gate's bias", _each("bias_ih", _with_forget_bias)),
    Fault(
        "the biases of the reverse direction are dropped",
        _each("bias", lambda a: a * 0, "_reverse"),
        "bias",
        "bias bidirectional",
    ),
    *(
        Fault(f"{name} is transposed gate by gate", _transposed(name), name, needs)
        for name, needs in (("weight_hh", "not-projected"), ("weight_ih", "square-weight_ih"))
    ),
    *(
        Fault(f"{name} is reshaped instead of transposed", _reshaped(name), name, needs)
        for name, needs in (("weight_hh", ""), ("weight_ih", ""), ("weight_hr", "projected-to-several"))
    ),
    Fault("the layers' weights are in reverse order", _moved(_backwards), "layer", "several-alike"),
    Fault("every layer has the first layer's weights", _moved(_first), "layer", "several-alike"),
    Fault(
        "the weights of the two directions are swapped",
        _moved(lambda layer, reverse, _: (layer, 1 - reverse)),
        "direction",
        "bidirectional",
    ),
    Fault(
        "the reverse direction has the forward direction's weights",
        _moved(lambda layer, reverse, _: (layer, 0)),
        "direction",
        "bidirectional",
    ),
)
