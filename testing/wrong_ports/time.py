"""Errors in time: lengths ignored, padding read, reverse direction flipped or joined wrongly."""

from __future__ import annotations

from testing.wrong_ports.gates import Gates
from testing.wrong_ports.part import Array

BUGS: dict[str, str | None] = {
    "no lengths": "the lengths are ignored",
    "flip over padding": "the reverse direction starts in the padding",
    "final over padding": "the final state is taken at the end of the padding",
    "final reverse at the end": "the final state of the reverse direction is the state after its first step",
    "padding kept": "the outputs in the padding are not zeroed",
    "padding multiplied": "the padding reaches the results",
    "not flipped back": "the outputs of the reverse direction are not flipped back",
    "never reversed": "the reverse direction runs forwards",
    "time reversed": "the inputs are reversed in time",
    "reverse first": "the reverse direction's outputs come first",
    "reverse first at the top": "the reverse direction's outputs come first in the last layer",
    "interleaved": "the outputs of the two directions are interleaved",
}


class Time(Gates):
    """Run one direction over time: flip, run to the end, mask, flip back."""

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
