r"""Matrix products of a chosen precision, on hardware that multiplies bfloat16.

A float32 has 24 significant bits and a bfloat16 has 8, so a float32 is the sum of three bfloat16 parts. The
product

.. math:: x W \approx \sum_{i + j < n} x_i W_j

has the precision of float32 for n = 3 ("highest", six products), and needs three products for n = 2 ("high")
and one for n = 1 ("default"). XLA does the same on a TPU for these settings.

Here the weights are split once per call instead of once per step. Each part of the weights is multiplied with
all matching parts of x at once, stacked as rows. For small batches the time is bound by loading the weights
into the matrix unit, and this way each part is loaded once per step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxlstm.layer.precision import Precision, level_of

PARTS = {lax.Precision.HIGHEST: 3, lax.Precision.HIGH: 2, lax.Precision.DEFAULT: 1}
EXACT = lax.Precision.DEFAULT
UPPER_HALF = -(2**16)  # masks the bits of a float32 that make a bfloat16 rounded towards zero


def parts_for(precision: Precision) -> int:
    """Return the number of parts that a float32 operand is split into."""
    return PARTS[level_of(precision)]


def split(x: jax.Array, count: int) -> list[jax.Array]:
    """Split x into ``count`` bfloat16 arrays with sum x, the largest first. A bfloat16 x is one part.

    The remainder of infinity is NaN, and so is its product.
    """
    if x.dtype == jnp.bfloat16:
        return [x]
    parts = []
    for _ in range(count - 1):
        bits = lax.bitcast_convert_type(x, jnp.int32) & UPPER_HALF
        part = lax.bitcast_convert_type(bits, jnp.float32)
        parts.append(part.astype(jnp.bfloat16))  # exact
        x = x - part
    return [*parts, x.astype(jnp.bfloat16)]


def product(x: jax.Array, weight: Sequence[Any], count: int) -> jax.Array:
    """Return the product of x (rows, K) and the parts of a weight (K, N), in float32.

    x is float32, split into ``count`` parts, or bfloat16. The number of rows is a multiple of 16.
    """
    rows, parts = x.shape[0], split(x, count)
    terms = []
    for j, part in enumerate(weight):
        matching = parts[: max(1, count - j)]
        stacked = matching[0] if len(matching) == 1 else jnp.concatenate(matching)
        # DEFAULT is exact for bfloat16. It is explicit because JAX's default may be another precision.
        result = jnp.dot(stacked, part[...], precision=EXACT, preferred_element_type=jnp.float32)
        terms += [(i + j, result[i * rows : (i + 1) * rows]) for i in range(len(matching))]
    terms.sort(key=lambda term: -term[0])  # the smallest first
    total = terms[0][1]
    for _, term in terms[1:]:
        total = total + term
    return total
