"""Padding: constant, reflected, replicated and circular. Negative widths crop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxlstm.programs.operators.registry import register_family, register_operator

_MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


@register_operator("aten.pad.default")
def pad(self: Array, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Array:
    """Pad the last axes; ``pad`` lists (before, after) of the last axis first."""
    if mode == "constant":
        return constant_pad_nd(self, pad, value or 0)
    widths = _widths(self, pad)
    if mode == "circular":
        # torch wraps what is left after cropping.
        self = _crop(self, widths)
        widths = [(max(before, 0), max(after, 0)) for before, after in widths]
    wider = [(max(before, 0), max(after, 0)) for before, after in widths]
    return _crop(jnp.pad(self, wider, mode=_MODES[mode]), widths)


@register_operator("aten.constant_pad_nd.default")
def constant_pad_nd(self: Array, pad: Sequence[int], value: float = 0) -> Array:
    """Pad the last axes with a number."""
    config = [(before, after, 0) for before, after in _widths(self, pad)]
    return jax.lax.pad(self, jnp.asarray(value, self.dtype), config)


def _pad_in_mode(mode: str, self: Array, padding: Sequence[int]) -> Array:
    return pad(self, padding, mode)


for _name, _mode in {"reflection": "reflect", "replication": "replicate"}.items():
    register_family(_pad_in_mode, {" ".join(f"{_name}_pad{n}d" for n in (1, 2, 3)): _mode})


def _widths(x: Array, padding: Sequence[int]) -> list[tuple[int, int]]:
    pairs = list(zip(padding[::2], padding[1::2], strict=True))[::-1]
    widths = [(0, 0)] * (x.ndim - len(pairs)) + pairs
    for size, (before, after) in zip(x.shape, widths, strict=True):
        if size + before + after < 0:
            raise ValueError(f"padding ({before}, {after}) crops more than an axis of size {size} has")
    return widths


def _crop(x: Array, widths: Sequence[tuple[int, int]]) -> Array:
    config: Any = [(min(before, 0), min(after, 0), 0) for before, after in widths]
    return jax.lax.pad(x, jnp.zeros((), x.dtype), config)
