"""The product inside a kernel: on tensor cores, or exact in float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxlstm.kernels.gpu.tiles import Tiles
from jaxlstm.precision import Precision, level_of

# Tensor cores multiply 16 rows at a time. Without them a row costs the same anywhere: one a program.
ROWS_OF_TENSOR_CORES, SHORTEST = 16, 16


class Weight:
    """A packed weight (in, out) in tiles, all of them read at once where they stay on the chip."""

    def __init__(self, ref: Any, rows: Tiles, columns: Tiles, resident: bool) -> None:
        self.ref, self.rows, self.columns = ref, rows, columns
        tiles = [(k, n) for k in range(rows.count) for n in range(columns.count)]
        self.resident = {at: self._read(*at) for at in tiles} if resident else {}

    def _read(self, k: int, n: int) -> jax.Array:
        return self.ref[self.rows.at(k), self.columns.at(n)]

    def tile(self, k: int, n: int) -> jax.Array:
        """Rows of tile k, columns of tile n."""
        return self.resident[k, n] if self.resident else self._read(k, n)


def sum_of_products(
    parts: Sequence[jax.Array], weight: Weight, n: int, precision: Precision
) -> jax.Array:
    """A row vector in tiles (R, K) times all rows of the columns of tile n: (R, N)."""
    products = [product(part, weight.tile(k, n), precision) for k, part in enumerate(parts)]
    return sum(products[1:], start=products[0])


def is_exact(dtype: Any, precision: Precision) -> bool:
    """Whether products are float32's own, on the ordinary cores, and not on tensor cores."""
    if jnp.dtype(dtype) != jnp.float32:
        return False
    return level_of(precision) == lax.Precision.HIGHEST


def product(a: jax.Array, b: jax.Array, precision: Precision) -> jax.Array:
    """a (R, K) times b (K, N), summed in float32: (R, N)."""
    level = level_of(precision) if a.dtype == jnp.float32 else lax.Precision.HIGHEST
    return jnp.dot(a, b, precision=level, preferred_element_type=jnp.float32)
