"""Wrong weights: biases dropped or added twice, kernels transposed, layers and directions swapped."""

from __future__ import annotations

from testing.wrong_ports.part import Array
from testing.wrong_ports.precision import Precision

BUGS: dict[str, str | None] = {
    "no bias_ih": "bias_ih is dropped",
    "no bias_hh": "bias_hh is dropped",
    "no biases": "both biases are dropped",
    "double bias": "the biases are doubled",
    "bias_ih twice": "bias_ih is used for bias_hh too",
    "bias_hh twice": "bias_hh is used for bias_ih too",
    "no reverse bias": "the biases of the reverse direction are dropped",
    "hh transposed": "weight_hh is transposed gate by gate",
    "hh reshaped": "weight_hh is reshaped instead of transposed",
    "ih reshaped": "weight_ih is reshaped instead of transposed",
    "hr reshaped": "weight_hr is reshaped instead of transposed",
    "no recurrence": "weight_hh is ignored",
    "layers reversed": "the layers' weights are in reverse order",
    "one layer for all": "every layer has the first layer's weights",
    "directions swapped": "the weights of the two directions are swapped",
    "shared directions": "the reverse direction has the forward direction's weights",
    "bias off by a thousandth": None,
}


class Weights(Precision):
    """The weights of one layer and direction."""

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
