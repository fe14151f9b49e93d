"""The whole port, and errors of a call and of the stack of layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from testing.wrong_ports.part import Array
from testing.wrong_ports.states import States
from testing.wrong_ports.time import Time
from testing.wrong_ports.weights import Weights

BUGS: dict[str, str | None] = {
    "output of first layer": "the outputs are the first layer's",
    "output shifted": "the outputs are shifted by one time step",
    "output scaled": None,
    "batch first": "the port is batch-first",
    "rows mixed": None,
}


class WrongPort(Time, Weights, States):
    """A port with some bugs, or none."""

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
