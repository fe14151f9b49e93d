"""An LSTM port in NumPy with bugs, or none.

Its structure differs from the oracle's and from the catalogue of faults: batches are flipped and masked,
weights are transposed kernels, and a bug is a branch in the code, as it would be in a port.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from jaxlstm.layer.config import LSTMConfig

Array = np.ndarray


def sigmoid(z: Array, xp: Any = np) -> Array:
    with np.errstate(over="ignore"):
        return (1 / (1 + xp.exp(-z))).astype(z.dtype)


def bfloat16(a: Array) -> Array:
    return a.astype(ml_dtypes.bfloat16).astype(a.dtype)


def tf32(a: Array) -> Array:
    """Round to ten bits of mantissa by scaling."""
    mantissa, exponent = np.frexp(a.astype(np.float64))
    return np.ldexp(np.rint(mantissa * 2**11), exponent - 11).astype(a.dtype)


class WrongPort:
    """A port with some bugs, or none. ``xp`` is NumPy or a compatible module."""

    xp: Any = np

    def __init__(self, config: LSTMConfig, *bugs: str) -> None:
        self.config, self.bugs = config, set(bugs)
        # Kept between calls by a port with stale state.
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
        lengths = xp.full(x.shape[1], x.shape[0]) if seq_lengths is None else xp.asarray(seq_lengths)
        with np.errstate(invalid="ignore", over="ignore"):
            outputs, h_n, c_n = self.run(weights, x, h_0, c_0, lengths)
        if "batch first" in self.bugs:
            outputs = outputs.swapaxes(0, 1)
        return outputs.astype(dtype), (h_n.astype(dtype), c_n.astype(dtype))

    def run(
        self, weights: dict[str, Array], x: Array, h_0: Array, c_0: Array, lengths: Array
    ) -> tuple[Array, Array, Array]:
        """Run the layers."""
        xp = self.xp
        layers, directions = self.config.num_layers, self.config.num_directions
        h_0, c_0 = self.initial(h_0, c_0, lengths)
        given = h_0, c_0
        if "no lengths" in self.bugs:
            lengths = xp.full_like(lengths, len(x))
        inside = xp.arange(len(x))[:, None, None] < lengths[None, :, None]
        x = self.read(x, lengths, inside)
        h_n, c_n, first = [], [], None
        for layer in range(layers):
            outputs = []
            for d in range(directions):
                w, slot = self.pick(weights, layer, d), self.slot(layer, d)
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

    def read(self, x: Array, lengths: Array, inside: Array) -> Array:
        """Return the inputs as the first layer receives them."""
        x = self.xp.where(inside, x, x if self.reads_padding else 0)
        if "time reversed" in self.bugs:
            x = self.flip(x, lengths)
        if "rows mixed" in self.bugs:
            x = x + 1e-3 * x[:, ::-1]
        return x

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
            return self.kept.get((h.shape, h.dtype)) or (h, c)
        return h, c

    def slot(self, layer: int, d: int) -> int:
        """Return the index in h_0 and c_0 of a layer's direction."""
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
        outputs, first = [], None
        for t, x_t in enumerate(x):
            goes_on = (t < end)[:, None]
            h, c = self.step(w, x_t, h, c, goes_on)
            first = (h, c) if first is None else first
            kept = goes_on | ("padding kept" in self.bugs)
            outputs.append(xp.where(kept, h, 0).astype(x.dtype))
        y = xp.stack(outputs)
        if reverse and "not flipped back" not in self.bugs:
            y = self.flip(y, own)
        if "padding kept" not in self.bugs:
            y = xp.where(xp.arange(len(x))[:, None, None] < lengths[None, :, None], y, 0)
        if reverse and "final reverse at the end" in self.bugs and first is not None:
            h, c = first
        return y.astype(x.dtype), h, c

    def step(self, w: dict[str, Array], x: Array, h: Array, c: Array, goes_on: Array) -> tuple[Array, Array]:
        """Return the next state, or the old one in rows that have ended."""
        xp = self.xp
        h_new, c_new = self.cell(w, x, h, c)
        if "padding multiplied" in self.bugs:
            return h_new * goes_on + h * ~goes_on, c_new * goes_on + c * ~goes_on
        return xp.where(goes_on, h_new, h), xp.where(goes_on, c_new, c)

    @property
    def reads_padding(self) -> bool:
        return bool(self.bugs & {"flip over padding", "final over padding", "padding multiplied"})

    def flip(self, x: Array, lengths: Array) -> Array:
        """Flip each row of (time, batch, features) within its length."""
        xp = self.xp
        time = xp.arange(len(x))[:, None]
        source = xp.where(time < lengths, lengths - 1 - time, time)
        return xp.take_along_axis(x, source[:, :, None], 0)

    def join(self, outputs: list[Array], last: bool) -> Array:
        """Concatenate the outputs of a layer's directions."""
        xp = self.xp
        if len(outputs) == 1:
            return outputs[0]
        forward, backward = outputs
        if "reverse first" in self.bugs or ("reverse first at the top" in self.bugs and last):
            return xp.concatenate([backward, forward], -1)
        if "interleaved" in self.bugs:
            return xp.stack([forward, backward], -1).reshape(*forward.shape[:2], -1)
        return xp.concatenate([forward, backward], -1)

    def cell(self, w: dict[str, Array], x: Array, h: Array, c: Array) -> tuple[Array, Array]:
        xp = self.xp
        bias = w["bias_ih"] + w["bias_hh"] if "bias_ih" in w else xp.zeros_like(w["hh"][0])
        z = self.gates(self.product(x, w["ih"]), self.product(h, w["hh"]), bias[None])
        i, f, g, o = self.squashed(z, c)
        c_new = f * c + i * g
        if "clip" in self.bugs:
            c_new = xp.clip(c_new, -1, 1)
        if "clip at 50" in self.bugs:
            c_new = xp.clip(c_new, -50, 50)
        if "bfloat16 c" in self.bugs:
            c_new = bfloat16(f * bfloat16(c) + i * g)
        return self.shown(w, o, c, c_new), c_new

    def gates(self, z_x: Array, z_h: Array, bias: Array) -> list[Array]:
        """Return the pre-activations of i, f, g, o."""
        xp = self.xp
        order = next((bug[6:] for bug in self.bugs if bug.startswith("order ") and len(bug) == 10), "ifgo")
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

    def squashed(self, z: list[Array], c: Array) -> list[Array]:
        """Return i, f, g, o from their pre-activations."""
        xp = self.xp
        z_i, z_f, z_g, z_o = z
        if "forget bias" in self.bugs:
            z_f = z_f + 1
        if "peephole" in self.bugs:
            z_f = z_f + c * c.dtype.type(0.1)
        i, f, o = map(self.sigmoid, (z_i, z_f, z_o))
        i = xp.ones_like(i) if "no input gate" in self.bugs else i
        f = xp.ones_like(f) if "no forget gate" in self.bugs else f
        f = 1 - i if "coupled" in self.bugs else f
        o = xp.ones_like(o) if "no output gate" in self.bugs else o
        g = self.tanh(z_g)
        if "g sigmoid" in self.bugs:
            g = self.sigmoid(z_g)
        if "g relu" in self.bugs:
            g = xp.maximum(z_g, 0)
        if "g linear" in self.bugs:
            g = z_g
        return [i, f, g, o]

    def shown(self, w: dict[str, Array], o: Array, c: Array, c_new: Array) -> Array:
        """Return h, the cell state gated by o."""
        xp = self.xp
        seen = c if "old c" in self.bugs else c_new
        squashed = seen if "c linear" in self.bugs else self.tanh(seen)
        if "c relu" in self.bugs:
            squashed = xp.maximum(seen, 0)
        if "hr" not in w:
            return o * squashed
        if "projection before tanh" in self.bugs:
            return xp.tanh(self.product(o * c_new, w["hr"]))
        if "projection cut" in self.bugs:
            return (o * squashed)[:, : self.config.proj_size]
        return self.product(o * squashed, w["hr"])

    def sigmoid(self, z: Array) -> Array:
        xp = self.xp
        if "hard sigmoid keras" in self.bugs:
            return xp.clip(0.2 * z + 0.5, 0, 1).astype(z.dtype)
        if "hard sigmoid torch" in self.bugs:
            return xp.clip(z / 6 + 0.5, 0, 1).astype(z.dtype)
        return sigmoid(z, xp)

    def tanh(self, z: Array) -> Array:
        return self.xp.maximum(z, 0) if "relu" in self.bugs else self.xp.tanh(z)

    def pick(self, params: dict[str, Array], layer: int, d: int) -> dict[str, Array]:
        """Return kernels (in, 4H) and biases by the names ih, hh, hr, bias_ih and bias_hh."""
        if "layers reversed" in self.bugs and layer > 0:
            layer = self.config.num_layers - layer
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
        return self.kernels(self.rounded(w))

    def kernels(self, w: dict[str, Array]) -> dict[str, Array]:
        """Return the transposed weights, as this port multiplies by them."""
        xp = self.xp
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

    def product(self, x: Array, kernel: Array) -> Array:
        if "tf32" in self.bugs:
            return tf32(x) @ tf32(kernel)
        if "bfloat16 products" in self.bugs:
            return bfloat16(x) @ bfloat16(kernel)
        return x @ kernel

    def rounded(self, w: dict[str, Array]) -> dict[str, Array]:
        """Return the weights as this port stores them."""
        for kind in ("bfloat16", "float16"):
            if f"{kind} weights" in self.bugs:
                w = {name: a.astype(np.dtype(kind)).astype(a.dtype) for name, a in w.items()}
        return w
