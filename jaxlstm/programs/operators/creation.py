"""Tensors made of a shape and numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from jaxlstm.programs.operators.dtypes import DEFAULT_FLOAT, Operand, as_array, dtype_of, held, is_integer
from jaxlstm.programs.operators.registry import register_operator


@register_operator("aten.zeros.default", "aten.empty.memory_format")
def zeros(size: Sequence[int], dtype: Any = None) -> jax.Array:
    """Return zeros of a shape. ``torch.empty`` gives zeros too."""
    return full(size, 0, dtype or DEFAULT_FLOAT)


@register_operator("aten.ones.default")
def ones(size: Sequence[int], dtype: Any = None) -> jax.Array:
    """Return ones of a shape."""
    return full(size, 1, dtype or DEFAULT_FLOAT)


@register_operator("aten.full.default")
def full(size: Sequence[int], fill_value: Operand, dtype: Any = None) -> jax.Array:
    """Return a number in a shape."""
    dtype = held(dtype_of(fill_value) if dtype is None else dtype)
    return jnp.broadcast_to(as_array(fill_value, dtype), tuple(size))


@register_operator("aten.scalar_tensor.default")
def scalar_tensor(s: Operand, dtype: Any = None) -> jax.Array:
    """Return a number as a tensor without axes, by default float32."""
    return full((), s, dtype or DEFAULT_FLOAT)


@register_operator("aten.zeros_like.default", "aten.empty_like.default")
def zeros_like(self: jax.Array, dtype: Any = None) -> jax.Array:
    """Return zeros of the shape of a tensor."""
    return full(self.shape, 0, dtype or self.dtype)


@register_operator("aten.ones_like.default")
def ones_like(self: jax.Array, dtype: Any = None) -> jax.Array:
    """Return ones of the shape of a tensor."""
    return full(self.shape, 1, dtype or self.dtype)


@register_operator("aten.full_like.default")
def full_like(self: jax.Array, fill_value: Operand, dtype: Any = None) -> jax.Array:
    """Return a number in the shape of a tensor."""
    return full(self.shape, fill_value, dtype or self.dtype)


@register_operator("aten.new_zeros.default", "aten.new_empty.default")
def new_zeros(self: jax.Array, size: Sequence[int], dtype: Any = None) -> jax.Array:
    """Return zeros of a shape and the dtype of a tensor."""
    return full(size, 0, dtype or self.dtype)


@register_operator("aten.new_ones.default")
def new_ones(self: jax.Array, size: Sequence[int], dtype: Any = None) -> jax.Array:
    """Return ones of a shape and the dtype of a tensor."""
    return full(size, 1, dtype or self.dtype)


@register_operator("aten.new_full.default")
def new_full(self: jax.Array, size: Sequence[int], fill_value: Operand, dtype: Any = None) -> jax.Array:
    """Return a number in a shape and the dtype of a tensor."""
    return full(size, fill_value, dtype or self.dtype)


@register_operator("aten.arange.default", "aten.arange.start", "aten.arange.start_step")
def arange(end: Operand, start: Operand = 0, step: Operand = 1, dtype: Any = None) -> jax.Array:
    """Return numbers from ``start`` to below ``end``: int64 for integers, else float32."""
    bounds = (start, end, step)
    whole = all(isinstance(bound, int) or jax.export.is_symbolic_dim(bound) for bound in bounds)
    dtype = held(dtype or (np.int64 if whole else DEFAULT_FLOAT))
    if any(map(jax.export.is_symbolic_dim, bounds)):
        places = jax.lax.iota(held("int64"), -((start - end) // step))
        return (start + step * places).astype(dtype)
    if is_integer(dtype):
        start, end, step, whole = int(start), int(end), int(step), True
    count = -((start - end) // step) if whole else math.ceil((end - start) / step)
    if count < 0:
        raise ValueError(f"arange from {start} to {end} needs a step of the other sign, got {step}")
    # As in torch, each element is rounded once.
    return jnp.asarray((start + step * np.arange(count)).astype(dtype))


@register_operator("aten.linspace.default")
def linspace(start: float, end: float, steps: int, dtype: Any = None) -> jax.Array:
    """Return evenly spaced numbers, both ends included."""
    dtype = held(dtype or DEFAULT_FLOAT)
    if is_integer(dtype):
        raise NotImplementedError("linspace of integers, whose rounding torch leaves to the device")
    return jnp.asarray(np.linspace(start, end, steps).astype(dtype))


@register_operator("aten.eye.default", "aten.eye.m")
def eye(n: int, m: int | None = None, dtype: Any = None) -> jax.Array:
    """Return ones on the diagonal of a matrix, zeros elsewhere."""
    return jnp.eye(n, m, dtype=held(dtype or DEFAULT_FLOAT))


@register_operator("aten.hann_window.default", "aten.hann_window.periodic")
def hann_window(window_length: int, periodic: bool = True, dtype: Any = None) -> jax.Array:
    """Return the Hann window."""
    return _cosines(window_length, periodic, (0.5, 0.5), dtype)


@register_operator(
    *(
        f"aten.hamming_window.{how}"
        for how in ("default", "periodic", "periodic_alpha", "periodic_alpha_beta")
    )
)
def hamming_window(
    window_length: int, periodic: bool = True, alpha: float = 0.54, beta: float = 0.46, dtype: Any = None
) -> jax.Array:
    """Return the Hamming window."""
    return _cosines(window_length, periodic, (alpha, beta), dtype)


@register_operator("aten.blackman_window.default", "aten.blackman_window.periodic")
def blackman_window(window_length: int, periodic: bool = True, dtype: Any = None) -> jax.Array:
    """Return the Blackman window."""
    return _cosines(window_length, periodic, (0.42, 0.5, 0.08), dtype)


def _cosines(length: int, periodic: bool, factors: Sequence[float], dtype: Any) -> jax.Array:
    """Return a window that is a sum of cosines, with alternating signs."""
    period = length if periodic else length - 1
    angles = np.arange(length) * (2 * np.pi / max(period, 1))
    terms = [(-1) ** k * factor * np.cos(k * angles) for k, factor in enumerate(factors)]
    window = np.sum(terms, axis=0) if length > 1 else np.ones(length)
    return jnp.asarray(window.astype(held(dtype or DEFAULT_FLOAT)))
