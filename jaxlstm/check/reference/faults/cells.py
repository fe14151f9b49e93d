"""Faults of the parameters and of the cell: gate order, biases, layers, activations, and too few bits."""

import itertools
from collections.abc import Callable
from dataclasses import replace

import jax.numpy as jnp
import numpy as np

from jaxlstm.check.cases.case import Array
from jaxlstm.check.reference.faults.fault import Change, Fault, equations, layers_alike
from jaxlstm.check.reference.oracle import Equations, OracleCall, Step, Weights, suffix, weights_of

GATES = "ifgo"
_USED_BY = {"iofg": " (as in ONNX)", "igfo": " (as in haiku)", "figo": " (as in OpenVINO)"}


def _each(prefix: str | tuple[str, ...], change: Callable[[Array], Array]) -> Change:
    """Return a fault that changes each parameter whose name starts with a string."""

    def apply(call: OracleCall) -> OracleCall:
        params = {n: change(a) if n.startswith(prefix) else a for n, a in call.params.items()}
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
            other_layer, other_reverse = source(layer, reverse, layers)
            weights = weights_of(call.params, call.config, other_layer, bool(other_reverse))
            end = suffix(call.config, layer, bool(reverse))
            params |= {name + end: array for name, array in weights.items()}
        return replace(call, params=params)

    return apply


def _backwards(layer: int, reverse: int, layers: range) -> tuple[int, int]:
    return (layers[0] + layers[-1] - layer if layer in layers else layer), reverse


def _bias(cause: str, change: Change) -> Fault:
    return Fault(cause, change, "bias", "bias")


WEIGHTS = (
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
    *(
        Fault(f"{name} is transposed gate by gate", _transposed(name), name, needs)
        for name, needs in (("weight_hh", "not-projected"), ("weight_ih", "square-weight_ih"))
    ),
    Fault("weight_hh is reshaped instead of transposed", _reshaped("weight_hh"), "weight_hh"),
    Fault("weight_ih is reshaped instead of transposed", _reshaped("weight_ih"), "weight_ih"),
    Fault("the layers' weights are in reverse order", _moved(_backwards), "layer", "several-alike"),
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


Round = Callable[[Array], Array]


def _swap_state(call: OracleCall) -> OracleCall:
    inner = call.equations.cell
    return call.with_equations(cell=lambda eq, w, x, h, c: inner(eq, w, x, c, h))


def _return_swapped(call: OracleCall) -> OracleCall:
    def cell(eq: Equations, w: Weights, x: Array, h: Array, c: Array) -> Step:
        step = call.equations.cell(eq, w, x, h, c)
        return step._replace(h=step.c, c=step.h)

    return call.with_equations(cell=cell)


_ACTIVATIONS = (
    ("sigmoid", "the hard one, clip(0.2 z + 0.5) (as in old Keras)", lambda z: np.clip(0.2 * z + 0.5, 0, 1)),
    ("sigmoid", "the hard one, clip(z / 6 + 0.5)", lambda z: np.clip(1 / 6 * z + 0.5, 0, 1)),
    ("tanh", "relu", lambda z: np.maximum(z, 0)),
)

_FORMULAS: dict[str, Change] = {
    "the candidate g goes through sigmoid": equations(candidate=lambda eq, z: eq.sigmoid(z)),
    "the candidate g goes through no tanh": equations(candidate=lambda eq, z: z),
    "c goes through no tanh on its way to h": equations(squashed=lambda eq, c: c),
}


_SWAPS: dict[str, Change] = {
    "h and c are swapped at every step": _swap_state,
    "every step returns (c, h) instead of (h, c)": _return_swapped,
    "every step takes and returns (c, h) (as in Flax) instead of (h, c)": (
        lambda call: _return_swapped(_swap_state(call))
    ),
}


def tf32(a: Array) -> Array:
    """Round to the 10 bits of mantissa of TF32, ties to even."""
    bits = np.asarray(a, np.float32).view(np.uint32).astype(np.uint64)
    bits += 0x0FFF + ((bits >> 13) & 1)
    return (bits & 0xFFFFE000).astype(np.uint32).view(np.float32).astype(np.float64)


def _round_products(round_: Round) -> Change:
    def apply(call: OracleCall) -> OracleCall:
        inner = call.equations.product
        return call.with_equations(product=lambda x, w: inner(round_(x), round_(w)))

    return apply


def _round_states(round_: Round) -> Change:
    def apply(call: OracleCall) -> OracleCall:
        inner = call.equations.cell

        def cell(eq: Equations, w: Weights, x: Array, h: Array, c: Array) -> Step:
            step = inner(eq, w, x, round_(h), round_(c))
            return step._replace(h=round_(step.h), c=round_(step.c))

        return call.with_equations(cell=cell)

    return apply


def _half(name: str) -> dict[str, Change]:
    """Return the faults of a half precision, by cause."""
    dtype = jnp.dtype(name)

    def round_(a: Array) -> Array:
        return a.astype(dtype).astype(np.float64)

    def weights(call: OracleCall) -> OracleCall:
        return replace(call, params={name: round_(a) for name, a in call.params.items()})

    return {
        f"the matrix products take {name} operands": _round_products(round_),
        f"the weights are rounded to {name}": weights,
        f"h and c are kept in {name}": _round_states(round_),
    }


_CAUSES = {"the matrix products run in TF32": _round_products(tf32), **_half("bfloat16"), **_half("float16")}

FORMULAS = (
    *(Fault(f"{name} is {what}", equations(**{name: how}), name) for name, what, how in _ACTIVATIONS),
    *(Fault(cause, change, "formula") for cause, change in _FORMULAS.items()),
    *(Fault(cause, change, "formula", "not-projected") for cause, change in _SWAPS.items()),
    Fault(
        "tanh comes after the projection",
        equations(squashed=lambda eq, c: c, projection=lambda eq, h, weight: eq.tanh(eq.product(h, weight))),
        "projection",
        "projected",
    ),
)
PRECISION = tuple(Fault(cause, apply, "precision", rounding=True) for cause, apply in _CAUSES.items())
