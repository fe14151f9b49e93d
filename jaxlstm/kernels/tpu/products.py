r"""Products as exact as asked for, on a unit that multiplies bfloat16: an operand is a sum of such parts.

A float32 has 24 bits and a bfloat16 8, so that three parts are the whole number and

.. math:: x W = \sum_{i + j < n} x_i W_j

with n = 3 is float32's product ("highest", six products), with n = 2 "high" (three) and with n = 1 "default".
That is what XLA does on a TPU for these settings. Here the weights are taken apart once and not in each step,
and one part of them is multiplied by all the parts of x that it meets at once, stacked as rows: a batch of
few rows takes as long as the weights need to enter the unit, and each part of them enters once a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxlstm.precision import Precision, level_of

PARTS = {lax.Precision.HIGHEST: 3, lax.Precision.HIGH: 2, lax.Precision.DEFAULT: 1}
EXACT = lax.Precision.DEFAULT
UPPER_HALF = -(2**16)  # of the bits of a float32: as a bfloat16 the number, rounded towards zero


def parts_for(precision: Precision) -> int:
    """How many parts an operand of float32 has."""
    return PARTS[level_of(precision)]


def split(x: jax.Array, count: int) -> list[jax.Array]:
    """``count`` arrays in bfloat16 that add up to x, the largest first; x alone if it is one already.

    Of infinity the rest is NaN, as the product then is.
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
    """x (rows, K) times a weight (K, N) in parts, references to them: float32 (rows, N).

    Args:
      x: float32 or bfloat16; rows a multiple of 16.
      weight: what :func:`split` gives.
      count: of the parts of x, if it is float32.
    """
    rows, parts = x.shape[0], split(x, count)
    terms = []
    for j, part in enumerate(weight):
        met = parts[: max(1, count - j)]
        stacked = met[0] if len(met) == 1 else jnp.concatenate(met)
        # of bfloat16, and so exact; said, lest JAX's default be another
        found = jnp.dot(stacked, part[...], precision=EXACT, preferred_element_type=jnp.float32)
        terms += [(i + j, found[i * rows : (i + 1) * rows]) for i in range(len(met))]
    terms.sort(key=lambda term: -term[0])  # the smallest first
    total = terms[0][1]
    for _, term in terms[1:]:
        total = total + term
    return total
