"""An LSTM port in NumPy, and ninety ways to get it wrong.

It is written another way than the oracle and than the catalogue of faults: batches are flipped and
masked, weights are transposed kernels, and a bug is a branch in the code, as it would be in a port.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from jaxlstm.config import LSTMConfig

Array = np.ndarray

# Bug -> what the checker must say of it (part of the cause); None: it is in no catalogue.
BUGS: dict[str, str | None] = {
    "order iofg": "the gates are read in the order i, o, f, g",
    "order igfo": "the gates are read in the order i, g, f, o",
    "order figo": "the gates are read in the order f, i, g, o",
    "order ifog": "the gates are read in the order i, f, o, g",
    "order ofig": "the gates are read in the order o, f, i, g",
    "order gofi": "the gates are read in the order g, o, f, i",
    "order of weights": "the gates of the weights, but not of the biases, are read in the order i, o, f",
    "order of weight_hh": "the gates of weight_hh alone are read in the order i, f, o, g",
    "no bias_ih": "bias_ih is dropped",
    "no bias_hh": "bias_hh is dropped",
    "no biases": "both biases are dropped",
    "double bias": "the biases are doubled",
    "bias_ih twice": "bias_ih is taken for bias_hh too",
    "bias_hh twice": "bias_hh is taken for bias_ih too",
    "forget bias": "1 is added to the forget gate's bias",
    "no reverse bias": "the biases of the reverse direction are dropped",
    "hh transposed": "weight_hh is transposed gate by gate",
    "hh reshaped": "weight_hh is reshaped where it should be transposed",
    "ih reshaped": "weight_ih is reshaped where it should be transposed",
    "hr reshaped": "weight_hr is reshaped where it should be transposed",
    "no recurrence": "weight_hh is ignored",
    "layers reversed": "the layers' weights are in reverse order",
    "one layer for all": "every layer has the first layer's weights",
    "directions swapped": "the weights of the two directions are swapped",
    "shared directions": "the reverse direction has the forward direction's weights",
    "state swapped": "h_0 and c_0 are swapped",
    "no h_0": "h_0 is ignored",
    "no c_0": "c_0 is ignored",
    "no state": "the initial state is ignored",
    "h_0 twice": "h_0 is taken for c_0 too",
    "state by direction": "h_0 and c_0 are laid out direction by direction",
    "state layers reversed": "h_0 and c_0 have the layers in reverse order",
    "state directions swapped": "h_0 and c_0 have the two directions swapped",
    "state stride": "h_0 and c_0 are read at layer + direction",
    "state of first layer": "every layer starts from the first layer's state",
    "state not sorted": "rows are sorted by length and h_0 and c_0 are not",
    "final swapped": "h_n and c_n are swapped",
    "h_n twice": "h_n is given for c_n too",
    "final is initial": "the final state is the initial state",
    "final by direction": "h_n and c_n are laid out direction by direction",
    "final layers reversed": "h_n and c_n have the layers in reverse order",
    "final directions swapped": "h_n and c_n have the two directions swapped",
    "final reverse at the end": "the final state of the reverse direction is that of its first step",
    "final not unsorted": "rows are sorted by length and h_n and c_n are not put back",
    "no lengths": "lengths are ignored",
    "flip over padding": "the reverse direction starts in the padding",
    "final over padding": "the state at the end of the padded time is taken for the final one",
    "padding kept": "the outputs behind each sequence's end are not zeroed",
    "not flipped back": "the outputs of the reverse direction are not flipped back",
    "never reversed": "the reverse direction runs forwards",
    "time reversed": "the inputs' time is reversed",
    "reverse first": "the reverse direction's outputs come first",
    "reverse first at the top": "the reverse direction's outputs come first in the last layer",
    "interleaved": "the outputs of the two directions are interleaved",
    "output of first layer": "the outputs are those of the first layer",
    "output shifted": "the outputs are shifted by one time step",
    "batch first": "the port is batch-first",
    "hard sigmoid keras": "sigmoid is the hard one, clip(0.2 z + 0.5)",
    "hard sigmoid torch": "sigmoid is the hard one, clip(z / 6 + 0.5)",
    "relu": "tanh is relu",
    "g sigmoid": "the candidate g goes through sigmoid",
    "g relu": "the candidate g goes through relu",
    "g linear": "the candidate g goes through no tanh",
    "c linear": "c goes through no tanh on its way to h",
    "c relu": "c goes through relu on its way to h",
    "coupled": "the forget gate is 1 - i",
    "no forget gate": "the forget gate is left out",
    "no input gate": "the input gate is left out",
    "no output gate": "the output gate is left out",
    "old c": "h is made of the c before the step",
    "clip": "c is clipped to [-1, 1]",
    "projection before tanh": "tanh comes after the projection",
    "projection cut": "weight_hr is ignored",
    "tf32": "the matrix products run in TF32",
    "bfloat16 products": "the matrix products take bfloat16 operands",
    "bfloat16 weights": "the weights are rounded to bfloat16",
    "float16 weights": "the weights are rounded to float16",
    "bfloat16 c": "c is kept in bfloat16",
    "float32 inside": "float64 inputs are computed in float32",
    "padding multiplied": "what stands behind a sequence's end reaches the results",
    "stale state": "state is kept between calls",
    "rows mixed": None,
    "bias off by a thousandth": None,
    "peephole": None,
    "output scaled": None,
}

PAIRS = (
    ("order iofg", "no bias_hh"),
    ("order igfo", "forget bias"),
    ("order figo", "not flipped back"),
    ("order ifog", "state swapped"),
    ("no bias_ih", "state by direction"),
    ("double bias", "reverse first"),
    ("layers reversed", "hard sigmoid keras"),
    ("hh transposed", "no c_0"),
    ("flip over padding", "final directions swapped"),
    ("c linear", "final by direction"),
    ("directions swapped", "no h_0"),
    ("bfloat16 weights", "order ifog"),
    ("padding kept", "no state"),
    ("interleaved", "final swapped"),
)

# Where the configs that show it are not those with several layers and both directions.
NEEDS_PROJECTION = {"hr reshaped", "projection before tanh", "projection cut"}


def bfloat16(a: Array) -> Array:
    return a.astype(ml_dtypes.bfloat16).astype(a.dtype)


def tf32(a: Array) -> Array:
    """Ten bits of mantissa by scaling, not by bits."""
    mantissa, exponent = np.frexp(a.astype(np.float64))
    return np.ldexp(np.rint(mantissa * 2**11), exponent - 11).astype(a.dtype)


def sigmoid(z: Array, xp: Any = np) -> Array:
    with np.errstate(over="ignore"):
        return (1 / (1 + xp.exp(-z))).astype(z.dtype)


class WrongPort:
    """A port with some bugs; none is the right one. ``xp`` is NumPy, or what speaks like it."""

    xp: Any = np

    def __init__(self, config: LSTMConfig, *bugs: str) -> None:
        self.config, self.bugs = config, set(bugs)
        self.kept: dict[Any, Any] = {}
        self.__name__ = " and ".join(bugs) or "right"

    def __call__(self, inputs: Any, initial_state: Any, seq_lengths: Any, *, params: Any) -> Any:
        xp = self.xp
        x, (h_0, c_0) = xp.asarray(inputs), map(xp.asarray, initial_state)
        weights = {name: xp.asarray(a) for name, a in params.items()}
        dtype = x.dtype
        if "float32 inside" in self.bugs:
            x, h_0, c_0 = (a.astype(np.float32) for a in (x, h_0, c_0))
            weights = {name: a.astype(np.float32) for name, a in weights.items()}
        if "batch first" in self.bugs:
            if x.shape[0] != h_0.shape[1]:
                raise ValueError(f"expected a state of batch {x.shape[0]}, got {h_0.shape[1]}")
            x = x.swapaxes(0, 1)
        lengths = (
            xp.full(x.shape[1], x.shape[0]) if seq_lengths is None else xp.asarray(seq_lengths)
        )
        with np.errstate(invalid="ignore", over="ignore"):
            outputs, h_n, c_n = self.run(weights, x, h_0, c_0, lengths)
        if "batch first" in self.bugs:
            outputs = outputs.swapaxes(0, 1)
        return outputs.astype(dtype), (h_n.astype(dtype), c_n.astype(dtype))

    # Layers and directions

    def run(
        self, weights: dict[str, Array], x: Array, h_0: Array, c_0: Array, lengths: Array
    ) -> tuple[Array, Array, Array]:
        xp = self.xp
        layers, directions = self.config.num_layers, self.config.num_directions
        h_0, c_0 = self.initial(h_0, c_0, lengths)
        given = h_0, c_0
        if "no lengths" in self.bugs:
            lengths = xp.full_like(lengths, len(x))
        time = xp.arange(len(x))[:, None, None]
        inside = time < lengths[None, :, None]
        x = xp.where(inside, x, x if self.reads_padding else 0)
        if "time reversed" in self.bugs:
            x = self.flip(x, lengths)
        if "rows mixed" in self.bugs:
            x = x + 1e-3 * x[:, ::-1]
        h_n, c_n, first = [], [], None
        for layer in range(layers):
            outputs = []
            for d in range(directions):
                w = self.pick(weights, layer, d)
                slot = self.slot(layer, d)
                y, h, c = self.direction(w, x, h_0[slot], c_0[slot], lengths, d == 1)
                outputs.append(y)
                h_n.append(h)
                c_n.append(c)
            x = self.join(outputs, layer == layers - 1)
            first = x if first is None else first
        if "output of first layer" in self.bugs and first is not None:
            x = first
        if "output shifted" in self.bugs:
            x = xp.concatenate([xp.zeros_like(x[:1]), x[:-1]]) * inside
        if "output scaled" in self.bugs:
            x = x * x.dtype.type(1.01)
        h, c = self.final(xp.stack(h_n), xp.stack(c_n), given, lengths)
        return x, h, c

    @property
    def reads_padding(self) -> bool:
        return bool(self.bugs & {"flip over padding", "final over padding", "padding multiplied"})

    def slot(self, layer: int, d: int) -> int:
        layers, directions = self.config.num_layers, self.config.num_directions
        if "state by direction" in self.bugs:
            return d * layers + layer
        if "state layers reversed" in self.bugs:
            return (layers - 1 - layer) * directions + d
        if "state directions swapped" in self.bugs:
            return layer * directions + 1 - d
        if "state stride" in self.bugs:
            return layer + d
        if "state of first layer" in self.bugs:
            return d
        return layer * directions + d

    def initial(self, h: Array, c: Array, lengths: Array) -> tuple[Array, Array]:
        xp = self.xp
        if "state swapped" in self.bugs:
            h, c = c, h
        if self.bugs & {"no h_0", "no state"}:
            h = xp.zeros_like(h)
        if self.bugs & {"no c_0", "no state"}:
            c = xp.zeros_like(c)
        if "h_0 twice" in self.bugs:
            c = h
        if "state not sorted" in self.bugs:
            order = xp.argsort(-lengths, stable=True)
            back = xp.argsort(order)
            h, c = h[:, back], c[:, back]
        if "stale state" in self.bugs:
            last = self.kept.get((h.shape, h.dtype))
            return last or (h, c)
        return h, c

    def final(self, h: Array, c: Array, given: Any, lengths: Array) -> tuple[Array, Array]:
        xp = self.xp
        layers, directions = self.config.num_layers, self.config.num_directions
        self.kept[(h.shape, h.dtype)] = h, c
        order = xp.arange(layers * directions).reshape(layers, directions)
        if "final by direction" in self.bugs:
            order = order.T
        if "final layers reversed" in self.bugs:
            order = order[::-1]
        if "final directions swapped" in self.bugs:
            order = order[:, ::-1]
        h, c = h[order.ravel()], c[order.ravel()]
        if "final swapped" in self.bugs:
            h, c = c, h
        if "h_n twice" in self.bugs:
            c = h
        if "final is initial" in self.bugs:
            h, c = given
        if "final not unsorted" in self.bugs:
            rows = xp.argsort(-lengths, stable=True)
            h, c = h[:, rows], c[:, rows]
        return h, c

    def join(self, outputs: list[Array], last: bool) -> Array:
        xp = self.xp
        if len(outputs) == 1:
            return outputs[0]
        forward, backward = outputs
        if "reverse first" in self.bugs or ("reverse first at the top" in self.bugs and last):
            return xp.concatenate([backward, forward], -1)
        if "interleaved" in self.bugs:
            return xp.stack([forward, backward], -1).reshape(*forward.shape[:2], -1)
        return xp.concatenate([forward, backward], -1)

    # One direction over time: flipped, run to the end, masked, flipped back

    def direction(
        self, w: dict[str, Array], x: Array, h: Array, c: Array, lengths: Array, reverse: bool
    ) -> tuple[Array, Array, Array]:
        xp = self.xp
        full = xp.full_like(lengths, len(x))
        own = full if reverse and "flip over padding" in self.bugs else lengths
        reverse = reverse and "never reversed" not in self.bugs
        if reverse:
            x = self.flip(x, own)
        end = full if "final over padding" in self.bugs and not reverse else own
        outputs, cells, first = [], [], None
        for t, x_t in enumerate(x):
            h_new, c_new = self.cell(w, x_t, h, c)
            goes_on = (t < end)[:, None]
            if "padding multiplied" in self.bugs:
                h, c = h_new * goes_on + h * ~goes_on, c_new * goes_on + c * ~goes_on
            else:
                h, c = xp.where(goes_on, h_new, h), xp.where(goes_on, c_new, c)
            first = (h, c) if first is None else first
            kept = goes_on | ("padding kept" in self.bugs)
            outputs.append(xp.where(kept, h, 0).astype(x.dtype))
            cells.append(c)
        y = xp.stack(outputs)
        if reverse and "not flipped back" not in self.bugs:
            y = self.flip(y, own)
        if "padding kept" not in self.bugs:
            y = xp.where(xp.arange(len(x))[:, None, None] < lengths[None, :, None], y, 0)
        if reverse and "final reverse at the end" in self.bugs and first is not None:
            h, c = first
        return y.astype(x.dtype), h, c

    # Weights and the cell

    def pick(self, params: dict[str, Array], layer: int, d: int) -> dict[str, Array]:
        """Kernels (in, 4H) of one direction, gates in the order that this port believes in."""
        xp = self.xp
        layers = self.config.num_layers
        if "layers reversed" in self.bugs and layer > 0:
            layer = layers - layer
        if "one layer for all" in self.bugs:
            layer = min(layer, 1)
        if "directions swapped" in self.bugs:
            d = 1 - d
        if "shared directions" in self.bugs:
            d = 0
        end = f"_l{layer}" + ("_reverse" if d else "")
        w = {name: params[name + end] for name in self.names}
        if "bias_ih" in w:
            w |= self.biases(w["bias_ih"], w["bias_hh"], d == 1)
        for kind in ("bfloat16", "float16"):
            if f"{kind} weights" in self.bugs:
                w = {name: a.astype(np.dtype(kind)).astype(a.dtype) for name, a in w.items()}
        for name in ("ih", "hh", "hr"):
            matrix = w.get(f"weight_{name}")
            if matrix is not None:
                reshaped = f"{name} reshaped" in self.bugs
                w[name] = matrix.reshape(matrix.shape[::-1]) if reshaped else matrix.T
        if "hh transposed" in self.bugs:
            w["hh"] = xp.concatenate(xp.split(w["weight_hh"], 4), axis=1)
        if "no recurrence" in self.bugs:
            w["hh"] = w["hh"] * 0
        return w

    @property
    def names(self) -> list[str]:
        names = ["weight_ih", "weight_hh"]
        names += ["bias_ih", "bias_hh"] if self.config.bias else []
        return names + (["weight_hr"] if self.config.proj_size else [])

    def biases(self, ih: Array, hh: Array, reverse: bool) -> dict[str, Array]:
        if "no biases" in self.bugs or ("no reverse bias" in self.bugs and reverse):
            ih, hh = ih * 0, hh * 0
        if "no bias_ih" in self.bugs:
            ih = ih * 0
        if "no bias_hh" in self.bugs:
            hh = hh * 0
        if "double bias" in self.bugs:
            ih, hh = ih * 2, hh * 2
        if "bias_ih twice" in self.bugs:
            hh = ih
        if "bias_hh twice" in self.bugs:
            ih = hh
        if "bias off by a thousandth" in self.bugs:
            ih = ih * ih.dtype.type(1.001)
        return {"bias_ih": ih, "bias_hh": hh}

    def gates(self, z_x: Array, z_h: Array, bias: Array) -> list[Array]:
        """Pre-activations of i, f, g, o."""
        xp = self.xp
        order = next(
            (bug[6:] for bug in self.bugs if bug.startswith("order ") and len(bug) == 10), "ifgo"
        )
        orders = [order] * 3
        if "order of weights" in self.bugs:
            orders = ["iofg", "iofg", "ifgo"]
        if "order of weight_hh" in self.bugs:
            orders = ["ifgo", "ifog", "ifgo"]
        found: dict[str, Any] = dict.fromkeys("ifgo", xp.zeros_like(z_x[:, :1]))
        for part, names in zip((z_x, z_h, bias), orders, strict=True):
            for name, block in zip(names, xp.split(part, 4, axis=-1), strict=True):
                found[name] = found[name] + block
        return [found[name] for name in "ifgo"]

    def product(self, x: Array, kernel: Array) -> Array:
        if "tf32" in self.bugs:
            return tf32(x) @ tf32(kernel)
        if "bfloat16 products" in self.bugs:
            return bfloat16(x) @ bfloat16(kernel)
        return x @ kernel

    def cell(self, w: dict[str, Array], x: Array, h: Array, c: Array) -> tuple[Array, Array]:
        xp = self.xp
        bias = w["bias_ih"] + w["bias_hh"] if "bias_ih" in w else xp.zeros_like(w["hh"][0])
        z_i, z_f, z_g, z_o = self.gates(
            self.product(x, w["ih"]), self.product(h, w["hh"]), bias[None]
        )
        if "forget bias" in self.bugs:
            z_f = z_f + 1
        if "peephole" in self.bugs:
            z_f = z_f + c * c.dtype.type(0.1)
        squash = self.sigmoid
        tanh = (lambda z: xp.maximum(z, 0)) if "relu" in self.bugs else xp.tanh
        i, f, o = squash(z_i), squash(z_f), squash(z_o)
        i = xp.ones_like(i) if "no input gate" in self.bugs else i
        f = xp.ones_like(f) if "no forget gate" in self.bugs else f
        f = 1 - i if "coupled" in self.bugs else f
        o = xp.ones_like(o) if "no output gate" in self.bugs else o
        g = tanh(z_g)
        if "g sigmoid" in self.bugs:
            g = squash(z_g)
        if "g relu" in self.bugs:
            g = xp.maximum(z_g, 0)
        if "g linear" in self.bugs:
            g = z_g
        c_new = f * c + i * g
        if "clip" in self.bugs:
            c_new = xp.clip(c_new, -1, 1)
        if "bfloat16 c" in self.bugs:
            c_new = bfloat16(f * bfloat16(c) + i * g)
        shown = c if "old c" in self.bugs else c_new
        squashed = shown if "c linear" in self.bugs else tanh(shown)
        if "c relu" in self.bugs:
            squashed = xp.maximum(shown, 0)
        if "hr" not in w:
            return o * squashed, c_new
        if "projection before tanh" in self.bugs:
            return xp.tanh(self.product(o * c_new, w["hr"])), c_new
        if "projection cut" in self.bugs:
            return (o * squashed)[:, : self.config.proj_size], c_new
        return self.product(o * squashed, w["hr"]), c_new

    def sigmoid(self, z: Array) -> Array:
        xp = self.xp
        if "hard sigmoid keras" in self.bugs:
            return xp.clip(0.2 * z + 0.5, 0, 1).astype(z.dtype)
        if "hard sigmoid torch" in self.bugs:
            return xp.clip(z / 6 + 0.5, 0, 1).astype(z.dtype)
        return sigmoid(z, xp)

    def flip(self, x: Array, lengths: Array) -> Array:
        """Each row of (time, batch, features) flipped inside its length."""
        xp = self.xp
        time = xp.arange(len(x))[:, None]
        source = xp.where(time < lengths, lengths - 1 - time, time)
        return xp.take_along_axis(x, source[:, :, None], 0)
