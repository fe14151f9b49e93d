"""A port of an LSTM in NumPy, and 57 ways to get it wrong.

Its structure differs from the oracle's and from the catalogue of faults: batches are flipped and masked, and
weights are transposed kernels. A bug replaces some of its methods.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np

from jaxlstm.layer.config import LSTMConfig

Array = np.ndarray


def sigmoid(z: Array, xp: Any = np) -> Array:
    with np.errstate(over="ignore"):
        return (1 / (1 + xp.exp(-z))).astype(z.dtype)


class WrongPort:
    """A port with some bugs, or none. ``xp`` is NumPy or a compatible module."""

    xp: Any = np

    def __init__(self, config: LSTMConfig, *bugs: str) -> None:
        self.config = config
        # Kept between calls by a port with stale state.
        self.kept: dict[Any, Any] = {}
        self.__name__ = " and ".join(bugs) or "right"
        for bug in bugs:
            for name, changed in BUGS[bug].methods.items():
                setattr(self, name, partial(changed, self, getattr(self, name)))

    def __call__(self, inputs: Any, initial_state: Any, seq_lengths: Any, *, params: Any) -> Any:
        xp = self.xp
        x, (h_0, c_0) = xp.asarray(inputs), map(xp.asarray, initial_state)
        weights = {name: xp.asarray(a) for name, a in params.items()}
        with np.errstate(invalid="ignore", over="ignore"):
            found = self.run(weights, x, h_0, c_0, seq_lengths)
        outputs, h_n, c_n = (a.astype(x.dtype) for a in found)
        return outputs, (h_n, c_n)

    def run(self, weights: dict[str, Array], x: Array, h_0: Array, c_0: Array, lengths: Any) -> Any:
        """Run the layers. Lengths may be None."""
        xp = self.xp
        lengths = xp.full(x.shape[1], x.shape[0]) if lengths is None else xp.asarray(lengths)
        given = self.initial((h_0, c_0), lengths)
        lengths = self.valid(lengths, len(x))
        inside = xp.arange(len(x))[:, None, None] < lengths[None, :, None]
        x = self.read(x, lengths, inside)
        outputs, states = [x], []
        for layer in range(self.config.num_layers):
            found = []
            for d in range(self.config.num_directions):
                w, slot = self.weights(weights, *self.source((layer, d))), self.slot(layer, d)
                state = given[0][slot], given[1][slot]
                found.append(self.direction(w, outputs[-1], *state, lengths, inside, d == 1))
            outputs.append(self.join([y for y, _ in found], layer == self.config.num_layers - 1))
            states += [state for _, state in found]
        final = xp.stack([h for h, _ in states]), xp.stack([c for _, c in states])
        self.kept[final[0].shape, final[0].dtype] = final
        return self.returned(outputs[-1], outputs[1], inside), *self.final(final, given, lengths)

    def _unchanged(self, value: Any, *_: Any) -> Any:
        return value

    # Methods that a bug replaces, with their arguments. They return the first one.
    # ((h_0, c_0), lengths), and (lengths that the layers see, time).
    initial = valid = _unchanged
    # ((layer, direction) whose weights are used), ((bias_ih, bias_hh), reverse), (a weight as it is stored).
    source = biases = stored = _unchanged
    # ((lengths to flip within, lengths after which a state stays), time, reverse), (reverse).
    spans = runs_backwards = _unchanged
    # (orders of the gates of weight_ih, weight_hh and the bias), ((i, f, o)), (pre-activation of f, c).
    orders = gates = forget = _unchanged
    # (last state, first state, reverse), (outputs of the last layer, of the first, inside).
    last = returned = _unchanged
    # ((h_n, c_n), (h_0, c_0), lengths).
    final = _unchanged

    def read(self, x: Array, lengths: Array, inside: Array) -> Array:
        """Return the inputs as the first layer receives them."""
        return self.xp.where(inside, x, 0)

    def slot(self, layer: int, d: int) -> int:
        """Return the index in h_0 and c_0 of a layer's direction."""
        return layer * self.config.num_directions + d

    def weights(self, params: dict[str, Array], layer: int, d: int) -> dict[str, Array]:
        """Return kernels (in, 4H) and biases by the names ih, hh, hr, bias_ih and bias_hh."""
        end = f"_l{layer}" + ("_reverse" if d else "")
        w = {name[: -len(end)]: a for name, a in params.items() if name.partition("_l")[2] == end[2:]}
        if "bias_ih" in w:
            w["bias_ih"], w["bias_hh"] = self.biases((w["bias_ih"], w["bias_hh"]), d == 1)
        w = {name: self.stored(a) for name, a in w.items()}
        return w | {n[7:]: self.kernel(a, n[7:]) for n, a in w.items() if n.startswith("weight_")}

    def kernel(self, matrix: Array, name: str) -> Array:
        """Return the transposed weight, as this port multiplies by it."""
        return matrix.T

    def direction(
        self, w: dict[str, Array], x: Array, h: Array, c: Array, lengths: Array, inside: Array, reverse: bool
    ) -> tuple[Array, tuple[Array, Array]]:
        """Return the outputs and the final state of a layer's direction."""
        xp = self.xp
        own, end = self.spans((lengths, lengths), xp.full_like(lengths, len(x)), reverse)
        reverse = self.runs_backwards(reverse)
        states = []
        for t, x_t in enumerate(self.flip(x, own) if reverse else x):
            goes_on = (t < end)[:, None]
            h_new, c_new = self.cell(w, x_t, h, c)
            h, c = self.masked(goes_on, h_new, h), self.masked(goes_on, c_new, c)
            states.append((h, c))
        y = xp.stack([h for h, _ in states]).astype(x.dtype)
        y = self.flip_back(y, own) if reverse else y
        return self.without_padding(y, inside), self.last(states[-1], states[0], reverse)

    def flip(self, x: Array, lengths: Array) -> Array:
        """Flip each row of (time, batch, features) within its length."""
        xp = self.xp
        time = xp.arange(len(x))[:, None]
        source = xp.where(time < lengths, lengths - 1 - time, time)
        return xp.take_along_axis(x, source[:, :, None], 0)

    def flip_back(self, y: Array, lengths: Array) -> Array:
        return self.flip(y, lengths)

    def masked(self, goes_on: Array, new: Array, old: Array) -> Array:
        """Return the new state, or the old one in rows that have ended."""
        return self.xp.where(goes_on, new, old)

    def without_padding(self, y: Array, inside: Array) -> Array:
        return self.xp.where(inside, y, 0).astype(y.dtype)

    def cell(self, w: dict[str, Array], x: Array, h: Array, c: Array) -> tuple[Array, Array]:
        xp = self.xp
        bias = w["bias_ih"] + w["bias_hh"] if "bias_ih" in w else xp.zeros_like(w["hh"][0])
        parts = self.product(x, w["ih"]), self.product(h, w["hh"]), bias[None]
        z: dict[str, Any] = dict.fromkeys("ifgo", xp.zeros_like(parts[0][:, :1]))
        for part, names in zip(parts, self.orders(("ifgo",) * 3), strict=True):
            blocks = part.reshape(len(part), 4, part.shape[1] // 4).swapaxes(0, 1)
            for name, block in zip(names, blocks, strict=True):
                z[name] = z[name] + block
        i, f, o = self.gates([self.sigmoid(a) for a in (z["i"], self.forget(z["f"], c), z["o"])])
        c_new = self.new_c(i, f, self.candidate(z["g"]), c)
        squashed = self.squashed(c_new, c)
        return (self.projected(o, squashed, c_new, w["hr"]) if "hr" in w else o * squashed), c_new

    def product(self, x: Array, kernel: Array) -> Array:
        return x @ kernel

    def candidate(self, z: Array) -> Array:
        return self.tanh(z)

    def new_c(self, i: Array, f: Array, g: Array, c: Array) -> Array:
        return f * c + i * g

    def squashed(self, c_new: Array, c: Array) -> Array:
        return self.tanh(c_new)

    def projected(self, o: Array, squashed: Array, c: Array, kernel: Array) -> Array:
        return self.product(o * squashed, kernel)

    def sigmoid(self, z: Array) -> Array:
        return sigmoid(z, self.xp)

    def tanh(self, z: Array) -> Array:
        return self.xp.tanh(z)

    def join(self, outputs: list[Array], is_top: bool) -> Array:
        """Concatenate the outputs of a layer's directions."""
        return self.xp.concatenate(outputs, -1)

    def tf32(self, a: Array) -> Array:
        """Round to ten bits of mantissa by scaling."""
        mantissa, exponent = np.frexp(a.astype(np.float64))
        return np.ldexp(np.rint(mantissa * 2**11), exponent - 11).astype(a.dtype)


class Bug:
    """A part of the cause that the checker must name, or None if the catalogue lacks it, and the bug.

    Each method takes the port, its right method and the arguments of that method.
    """

    def __init__(self, cause: str | None, **methods: Callable[..., Any]) -> None:
        self.cause, self.methods = cause, methods


def _bfloat16(a: Array) -> Array:
    return a.astype(ml_dtypes.bfloat16).astype(a.dtype)


def _with_bfloat16_states(port: WrongPort, right: Any, w: Any, x: Array, h: Array, c: Array) -> Any:
    h, c = right(w, x, _bfloat16(h), _bfloat16(c))
    return _bfloat16(h), _bfloat16(c)


def _order(order: str) -> Bug:
    cause = f"the gates are read in the order {', '.join(order)}"
    return Bug(cause, orders=lambda port, right, _: (order,) * 3)


def _initial(cause: str, change: Callable[[Array, Array], Any]) -> Bug:
    return Bug(cause, initial=lambda port, right, state, lengths: right(change(*state), lengths))


_LAYOUTS: dict[str, tuple[str, Callable[[Array], Array]]] = {
    "by direction": ("are laid out direction by direction", lambda slots: slots.reshape(slots.shape[::-1]).T),
    "layers reversed": ("have the layers in reverse order", lambda slots: slots[::-1]),
    "directions swapped": ("have the two directions swapped", lambda slots: slots[:, ::-1]),
}
"""Layouts of states in words, and the slot of each (layer, direction) from the right one."""


def _slots(port: WrongPort) -> Array:
    shape = port.config.num_layers, port.config.num_directions
    return np.arange(shape[0] * shape[1]).reshape(shape)


def _slot(cause: str, change: Callable[[Array], Array]) -> Bug:
    return Bug(cause, slot=lambda port, _, layer, d: change(_slots(port))[layer, d])


def _final_slots(cause: str, change: Callable[[Array], Array]) -> Bug:
    def final(port: WrongPort, right: Any, state: Any, *rest: Any) -> Any:
        order = np.argsort(change(_slots(port)), axis=None)
        return right([a[order] for a in state], *rest)

    return Bug(cause, final=final)


def _biases(cause: str | None, change: Callable[[Array, Array], tuple[Array, Array]]) -> Bug:
    return Bug(cause, biases=lambda port, right, both, reverse: right(change(*both), reverse))


def _kernel(cause: str, of: str, change: Callable[[WrongPort, Array], Array]) -> Bug:
    def kernel(port: WrongPort, right: Any, matrix: Array, name: str) -> Array:
        return change(port, matrix) if name == of else right(matrix, name)

    return Bug(cause, kernel=kernel)


def _reshaped(name: str) -> Bug:
    cause = f"weight_{name} is reshaped instead of transposed"
    return _kernel(cause, name, lambda port, matrix: matrix.reshape(matrix.shape[::-1]))


def _float32_inside(port: WrongPort, right: Any, weights: Any, x: Array, h: Array, c: Array, n: Any) -> Any:
    weights = {name: a.astype(np.float32) for name, a in weights.items()}
    return right(weights, *(a.astype(np.float32) for a in (x, h, c)), n)


def _batch_first(port: WrongPort, right: Any, weights: Any, x: Array, h: Array, c: Array, n: Any) -> Any:
    if x.shape[0] != h.shape[1]:
        raise ValueError(f"expected a state of batch {x.shape[0]}, got {h.shape[1]}")
    outputs, h_n, c_n = right(weights, x.swapaxes(0, 1), h, c, n)
    return outputs.swapaxes(0, 1), h_n, c_n


def _with_padding(port: WrongPort, right: Any, x: Array, lengths: Array, inside: Array) -> Array:
    return x


BUGS: dict[str, Bug] = {
    # Gates in the wrong order, wrong functions, and wrong cell equations.
    **{f"order {order}": _order(order) for order in ("iofg", "igfo", "figo", "ifog", "ofig", "gofi")},
    "forget bias": Bug("1 is added to the forget gate's bias", forget=lambda p, f, z, c: f(z + 1, c)),
    "hard sigmoid keras": Bug(
        "sigmoid is the hard one, clip(0.2 z + 0.5)",
        sigmoid=lambda p, f, z: p.xp.clip(0.2 * z + 0.5, 0, 1).astype(z.dtype),
    ),
    "relu": Bug("tanh is relu", tanh=lambda p, f, z: p.xp.maximum(z, 0)),
    "g sigmoid": Bug("the candidate g goes through sigmoid", candidate=lambda p, f, z: p.sigmoid(z)),
    "c linear": Bug("c goes through no tanh on its way to h", squashed=lambda p, f, c, old: c),
    "clip at 50": Bug(None, new_c=lambda p, f, *a: p.xp.clip(f(*a), -50, 50)),
    "projection before tanh": Bug(
        "tanh comes after the projection", projected=lambda p, f, o, y, c, w: p.tanh(p.product(o * c, w))
    ),
    "peephole": Bug(None, forget=lambda p, f, z, c: f(z + c * c.dtype.type(0.1), c)),
    # Wrong weights: biases dropped or added twice, kernels transposed, layers and directions swapped.
    "no bias_ih": _biases("bias_ih is dropped", lambda ih, hh: (ih * 0, hh)),
    "no bias_hh": _biases("bias_hh is dropped", lambda ih, hh: (ih, hh * 0)),
    "double bias": _biases("the biases are doubled", lambda ih, hh: (ih * 2, hh * 2)),
    "bias_ih twice": _biases("bias_ih is used for bias_hh too", lambda ih, hh: (ih, ih)),
    "no reverse bias": Bug(None, biases=lambda p, f, both, reverse: [b * (not reverse) for b in both]),
    "hh transposed": _kernel(
        "weight_hh is transposed gate by gate",
        "hh",
        lambda p, matrix: p.xp.concatenate(p.xp.split(matrix, 4), axis=1),
    ),
    **{f"{name} reshaped": _reshaped(name) for name in ("hh", "ih")},
    "layers reversed": Bug(
        "the layers' weights are in reverse order",
        source=lambda p, f, at: (p.config.num_layers - at[0] if at[0] else 0, at[1]),
    ),
    "one layer for all": Bug(None, source=lambda p, f, at: (min(at[0], 1), at[1])),
    "directions swapped": Bug(
        "the weights of the two directions are swapped", source=lambda p, f, at: (at[0], 1 - at[1])
    ),
    "bias off by a thousandth": _biases(None, lambda ih, hh: (ih * ih.dtype.type(1.001), hh)),
    # Wrong states: h and c swapped, wrong layout, or stale.
    "state swapped": _initial("h_0 and c_0 are swapped", lambda h, c: (c, h)),
    "no h_0": _initial("h_0 is ignored", lambda h, c: (h * 0, c)),
    "no c_0": _initial("c_0 is ignored", lambda h, c: (h, c * 0)),
    "no state": _initial("the initial state is ignored", lambda h, c: (h * 0, c * 0)),
    **{f"state {name}": _slot(f"h_0 and c_0 {cause}", order) for name, (cause, order) in _LAYOUTS.items()},
    "state stride": _slot(
        "h_0 and c_0 are read at layer + direction", lambda slots: np.add.outer(*map(np.arange, slots.shape))
    ),
    "stale state": Bug(
        "the port keeps state", initial=lambda p, f, s, n: p.kept.get((s[0].shape, s[0].dtype)) or s
    ),
    "final swapped": Bug("h_n and c_n are swapped", final=lambda p, f, state, given, lengths: state[::-1]),
    **{
        f"final {name}": _final_slots(f"h_n and c_n {cause}", order)
        for name, (cause, order) in _LAYOUTS.items()
    },
    # Errors in time: lengths ignored, padding read, reverse direction flipped or joined wrongly.
    "no lengths": Bug("the lengths are ignored", valid=lambda p, f, n, time: p.xp.full_like(n, time)),
    "flip over padding": Bug(
        "the reverse direction starts in the padding",
        spans=lambda p, f, ends, time, reverse: (time, time) if reverse else ends,
        read=_with_padding,
    ),
    "final over padding": Bug(
        "the final state is taken at the end of the padding",
        spans=lambda p, f, ends, time, reverse: ends if reverse else (ends[0], time),
        read=_with_padding,
    ),
    "final reverse at the end": Bug(
        "reverse direction is the state after its first step",
        last=lambda p, f, last, first, reverse: first if reverse else last,
    ),
    "padding kept": Bug(
        "the outputs in the padding are not zeroed", without_padding=lambda p, f, y, inside: y
    ),
    "padding multiplied": Bug(
        None, masked=lambda p, f, on, new, old: new * on + old * ~on, read=_with_padding
    ),
    "not flipped back": Bug(
        "outputs of the reverse direction are not flipped back", flip_back=lambda p, f, y, lengths: y
    ),
    "never reversed": Bug("the reverse direction runs forwards", runs_backwards=lambda p, f, reverse: False),
    "reverse first": Bug(
        "the reverse direction's outputs come first", join=lambda p, f, ys, is_top: f(ys[::-1], is_top)
    ),
    "reverse first at the top": Bug(
        "the reverse direction's outputs come first in the last layer",
        join=lambda p, f, ys, is_top: f(ys[::-1] if is_top else ys, is_top),
    ),
    # The whole port, and errors of a call and of the stack of layers.
    "output scaled": Bug(None, returned=lambda p, f, y, *_: y * y.dtype.type(1.01)),
    "batch first": Bug("the port is batch-first", run=_batch_first),
    "rows mixed": Bug(None, read=lambda p, f, x, n, inside: (y := f(x, n, inside)) + 1e-3 * y[:, ::-1]),
    # Products, weights or states rounded to too few bits.
    "tf32": Bug("the matrix products run in TF32", product=lambda p, f, *xw: f(*map(p.tf32, xw))),
    "bfloat16 products": Bug(
        "the matrix products take bfloat16 operands", product=lambda p, f, *xw: f(*map(_bfloat16, xw))
    ),
    "bfloat16 weights": Bug("the weights are rounded to bfloat16", stored=lambda p, f, a: f(_bfloat16(a))),
    "bfloat16 states": Bug("h and c are kept in bfloat16", cell=_with_bfloat16_states),
    "float32 inside": Bug("a part of the computation is in float32", run=_float32_inside),
}

PAIRS = (
    ("order iofg", "no bias_hh"),
    ("order ifog", "state swapped"),
    ("no bias_ih", "state by direction"),
    ("layers reversed", "hard sigmoid keras"),
    ("hh transposed", "no c_0"),
    ("flip over padding", "final directions swapped"),
    ("padding kept", "no state"),
    ("never reversed", "final swapped"),
)
