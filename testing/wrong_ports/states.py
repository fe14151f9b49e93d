"""Wrong states: h and c swapped, wrong layout, not sorted with the rows, or stale."""

from __future__ import annotations

from typing import Any

from testing.wrong_ports.part import Array, Part

BUGS: dict[str, str | None] = {
    "state swapped": "h_0 and c_0 are swapped",
    "no h_0": "h_0 is ignored",
    "no c_0": "c_0 is ignored",
    "no state": "the initial state is ignored",
    "h_0 twice": "h_0 is used for c_0 too",
    "state by direction": "h_0 and c_0 are laid out direction by direction",
    "state layers reversed": "h_0 and c_0 have the layers in reverse order",
    "state directions swapped": "h_0 and c_0 have the two directions swapped",
    "state stride": "h_0 and c_0 are read at layer + direction",
    "state of first layer": "every layer starts from the first layer's state",
    "state not sorted": "rows are sorted by length but h_0 and c_0 are not",
    "stale state": "the port keeps state",
    "final swapped": "h_n and c_n are swapped",
    "h_n twice": "h_n is returned for c_n too",
    "final is initial": "the final state is the initial state",
    "final by direction": "h_n and c_n are laid out direction by direction",
    "final layers reversed": "h_n and c_n have the layers in reverse order",
    "final directions swapped": "h_n and c_n have the two directions swapped",
    "final not unsorted": "rows are sorted by length but h_n and c_n are not restored",
}


class States(Part):
    """Conversion between the caller's states and the states of each layer."""

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
