"""Weights for inference in fewer bits: bfloat16 by a cast, int8 by one scale for each output.

A matrix W (rows, columns) becomes integers q and scales s (rows, 1), W ~ s q, with
s = max |row| / 127 and q = round(W / s): symmetric, weight-only, per output channel, as in
https://arxiv.org/abs/2004.09602, section 3. The largest error of an element is s / 2. Biases stay as they
are. Products are still taken in the Runner's dtype: this saves memory, and exactness is what it costs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.precision import as_float_array

WEIGHTS = (None, "int8")


class Quantized(NamedTuple):
    """A matrix in 8 bits: ``values`` int8 (rows, columns), ``scales`` (rows, 1)."""

    values: Any
    scales: Any


def quantize(matrix: np.ndarray, dtype: np.dtype) -> Quantized:
    """``matrix`` (rows, columns) to int8, the scales in ``dtype``; a row of zeros stays zeros.

    Raises:
      ValueError: a NaN or an infinity, which has no place in 8 bits.
    """
    wide = np.asarray(matrix, np.float64)
    largest = np.abs(wide).max(axis=1, keepdims=True)
    if not np.isfinite(largest).all():
        raise ValueError("weights='int8' needs finite weights; use weights=None for these")
    scales = np.where(largest > 0, largest / 127, 1.0).astype(dtype)
    values = np.clip(np.rint(wide / scales.astype(np.float64)), -127, 127)
    return Quantized(values.astype(np.int8), scales)


def prepare(params: Mapping[str, Any], dtype: np.dtype, weights: str | None) -> dict[str, Any]:
    """The params as a Runner stores them: cast to ``dtype``, the matrices in int8 if so asked."""
    if weights not in WEIGHTS:
        raise ValueError(f"weights must be one of {WEIGHTS}, got {weights!r}")
    cast = {
        name: as_float_array(name, _narrowed(leaf, dtype)).astype(dtype)
        for name, leaf in params.items()
    }
    if weights is None:
        return cast
    return {
        name: quantize(np.asarray(leaf), dtype) if leaf.ndim == 2 else leaf
        for name, leaf in cast.items()
    }


def _narrowed(leaf: Any, dtype: np.dtype) -> Any:
    """float64 on the host in ``dtype``, which JAX without its 64-bit mode cannot do."""
    return leaf.astype(dtype) if getattr(leaf, "dtype", None) == np.float64 else leaf


def restore(params: Mapping[str, Any], dtype: Any) -> dict[str, jax.Array]:
    """The inverse of :func:`prepare`, up to the rounding: every leaf an array of ``dtype``."""
    return {
        name: leaf.values.astype(dtype) * leaf.scales
        if isinstance(leaf, Quantized)
        else jnp.asarray(leaf)
        for name, leaf in params.items()
    }
