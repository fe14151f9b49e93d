"""Gates in the wrong order, wrong functions, and wrong cell equations."""

from __future__ import annotations

from typing import Any

import numpy as np

from testing.wrong_ports.part import Array
from testing.wrong_ports.precision import Precision, bfloat16

BUGS: dict[str, str | None] = {
    "order iofg": "the gates are read in the order i, o, f, g",
    "order igfo": "the gates are read in the order i, g, f, o",
    "order figo": "the gates are read in the order f, i, g, o",
    "order ifog": "the gates are read in the order i, f, o, g",
    "order ofig": "the gates are read in the order o, f, i, g",
    "order gofi": "the gates are read in the order g, o, f, i",
    "order of weights": "the gates of the weights, but not of the biases, are read in the order i, o, f",
    "order of weight_hh": "only the gates of weight_hh are read in the order i, f, o, g",
    "forget bias": "1 is added to the forget gate's bias",
    "hard sigmoid keras": "sigmoid is the hard one, clip(0.2 z + 0.5)",
    "hard sigmoid torch": "sigmoid is the hard one, clip(z / 6 + 0.5)",
    "relu": "tanh is relu",
    "g sigmoid": "the candidate g goes through sigmoid",
    "g relu": "the candidate g goes through relu",
    "g linear": "the candidate g goes through no tanh",
    "c linear": "c goes through no tanh on its way to h",
    "c relu": "c goes through relu on its way to h",
    "coupled": "the forget gate is 1 - i",
    "no forget gate": "the forget gate is missing",
    "no input gate": "the input gate is missing",
    "no output gate": "the output gate is missing",
    "old c": "h is computed from the c before the step",
    "clip": "c is clipped to [-1, 1]",
    "clip at 50": "c is clipped to [-50, 50]",
    "projection before tanh": "tanh comes after the projection",
    "projection cut": "weight_hr is ignored",
    "peephole": None,
}


def sigmoid(z: Array, xp: Any = np) -> Array:
    with np.errstate(over="ignore"):
        return (1 / (1 + xp.exp(-z))).astype(z.dtype)


class Gates(Precision):
    """Run one step of one direction."""

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
