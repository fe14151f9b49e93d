"""Rows of a table by their indices, and reductions of bags of rows."""

from functools import partial, wraps
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxlstm.layer.precision import gate_dtype
from jaxlstm.programs.operators.indexing import require_in_range, take
from jaxlstm.programs.operators.registry import register_operator

_SUM, _MEAN, _MAX = 0, 1, 2
# The output, and three tensors for the gradient in torch, which JAX does not need.
Results = tuple[Array, None, None, None]


@register_operator("aten.embedding.default")
def embedding(
    weight: Array,
    indices: Array,
    padding_idx: int = -1,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Array:
    """Return rows of a table. Negative indices do not count from the end; ``padding_idx`` has no gradient."""
    rows = _rows(weight, indices, scale_grad_by_freq)
    if padding_idx < 0:
        return rows
    return jnp.where((indices == padding_idx)[..., None], jax.lax.stop_gradient(rows), rows)


def _rows(weight: Array, indices: Array, scale_grad_by_freq: bool) -> Array:
    require_in_range(indices, 0, weight.shape[0], "indices of an embedding")
    rows = take(weight, indices, 0)
    if not scale_grad_by_freq:
        return rows
    counts = jnp.zeros(weight.shape[0], weight.dtype).at[indices].add(1, mode="drop")
    return _with_scaled_gradient(rows, 1 / take(counts, indices, 0)[..., None])


@jax.custom_jvp
def _with_scaled_gradient(x: Array, factor: Array) -> Array:
    return x


_with_scaled_gradient.defjvps(lambda tangent, y, x, factor: tangent * factor, None)


@register_operator("aten.embedding_bag.default", "aten.embedding_bag.padding_idx")
def embedding_bag(
    weight: Array,
    indices: Array,
    offsets: Array,
    scale_grad_by_freq: bool = False,
    mode: int = _SUM,
    sparse: bool = False,
    per_sample_weights: Array | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Results:
    """Return the sum, mean or maximum of the rows in each bag, 0 for an empty bag.

    Args:
      weight: the table, (rows, columns).
      indices: the rows of all bags, one bag after the other.
      offsets: the place in ``indices`` where each bag starts.
      scale_grad_by_freq: divide the gradient of a row by the number of its indices.
      mode: 0 for the sum, 1 for the mean, 2 for the maximum.
      sparse: no effect in JAX.
      per_sample_weights: a factor for each index, for the sum only.
      include_last_offset: the last offset is the end of the last bag.
      padding_idx: a row that does not count; negative from the end of the table.
    """
    if mode not in (_SUM, _MEAN, _MAX):
        raise ValueError(f"mode must be 0 (sum), 1 (mean) or 2 (max), got {mode}")
    if per_sample_weights is not None and mode != _SUM:
        raise ValueError("per_sample_weights needs the mode sum")
    _require_offsets(offsets, len(indices), include_last_offset)
    count = len(offsets) - int(include_last_offset)
    # An element after the last offset gets the number ``count``, which the reductions drop.
    bags = jnp.searchsorted(offsets, jnp.arange(len(indices)), side="right") - 1
    if padding_idx is not None:
        bags = jnp.where(indices == padding_idx % len(weight), count, bags)
    rows = _rows(weight, indices, scale_grad_by_freq).astype(gate_dtype(weight.dtype))
    if mode == _MAX:
        return _largest(rows, bags, count).astype(weight.dtype), None, None, None
    if per_sample_weights is not None:
        rows *= per_sample_weights[:, None]
    add_up = partial(jax.ops.segment_sum, segment_ids=bags, num_segments=count)
    total = add_up(rows)
    if mode == _MEAN:
        total /= jnp.maximum(add_up(jnp.ones(len(indices), rows.dtype)), 1)[:, None]
    return total.astype(weight.dtype), None, None, None


@register_operator("aten._embedding_bag.default", "aten._embedding_bag_forward_only.default")
@wraps(embedding_bag)
def embedding_bag_without_padding(*args: Any, padding_idx: int = -1, **kwargs: Any) -> Results:
    """Return the result of :func:`embedding_bag`; a negative ``padding_idx`` means None."""
    return embedding_bag(*args, padding_idx=None if padding_idx < 0 else padding_idx, **kwargs)


def _require_offsets(offsets: Array, size: int, include_last_offset: bool) -> None:
    """Raise if known offsets leave elements without a bag."""
    if isinstance(offsets, Tracer) or not offsets.size:
        return
    first, last = np.asarray(offsets)[[0, -1]]
    if first != 0:
        raise ValueError(f"offsets must start with 0, got {first}")
    if include_last_offset and last != size:
        raise ValueError(f"the last offset must be the number of indices, {size}, got {last}")


def _largest(rows: Array, bags: Array, count: int) -> Array:
    """Return the largest element of each column in each bag. The gradient goes to the first of equal ones."""
    size, columns = rows.shape
    if not size:
        return jnp.zeros((count, columns), rows.dtype)
    highest = jax.ops.segment_max(jax.lax.stop_gradient(rows), bags, count)
    is_highest = (rows == take(highest, bags, 0)) | jnp.isnan(rows)
    places = jnp.where(is_highest, jnp.arange(size)[:, None], size)
    # The identity of the minimum, for an empty bag, is beyond the end, too.
    first = jnp.minimum(jax.ops.segment_min(places, bags, count), size)
    return rows.at[first, jnp.arange(columns)].get(mode="fill", fill_value=0)
