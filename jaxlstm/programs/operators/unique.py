"""Distinct elements, and how often each occurs. Under ``jax.jit`` see `prefix_rules`."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxlstm.programs.operators.axes import axis
from jaxlstm.programs.operators.dtypes import held
from jaxlstm.programs.operators.indexing import require_in_range
from jaxlstm.programs.operators.registry import register_operator

Groups = tuple[Any, Any, Any]
"""One element of each group, the number of the group of each element, and the sizes of the groups."""


def asked_for(groups: Groups, return_inverse: bool, return_counts: bool) -> Groups:
    """Return groups, without numbers and sizes that are not asked for: torch leaves them empty."""
    values, inverse, counts = groups
    empty = jnp.zeros(0, held("int64"))
    return values, inverse if return_inverse else empty, counts if return_counts else empty


@register_operator("aten._unique2.default")
def unique(
    self: Array, sorted: bool = True, return_inverse: bool = False, return_counts: bool = False
) -> Groups:
    """Return the distinct elements in ascending order. No NaN equals another."""
    return asked_for(unique_along(self, None), return_inverse, return_counts)


@register_operator("aten.unique_dim.default")
def unique_along(
    self: Array,
    dim: int | None,
    sorted: bool = True,
    return_inverse: bool = False,
    return_counts: bool = False,
) -> Groups:
    """Return the distinct slices of an axis in ascending order."""
    place = None if dim is None else axis(self, dim)
    settings: Any = {"return_inverse": True, "return_counts": True, "equal_nan": False}
    values, inverse, counts = jnp.unique(self, axis=place, **settings)
    return values, inverse.astype(held("int64")), counts.astype(held("int64"))


def starts_of_groups(x: Array) -> Array:
    """Return True for each slice of the first axis that differs from the one before."""
    differs = (x[1:] != x[:-1]).any(tuple(range(1, x.ndim)))
    return jnp.concatenate([jnp.ones(min(x.shape[0], 1), bool), differs])


@register_operator("aten.unique_consecutive.default")
def unique_consecutive(
    self: Array, return_inverse: bool = False, return_counts: bool = False, dim: int | None = None
) -> Groups:
    """Return the first of each group of equal elements, or slices of an axis, that follow each other."""
    is_flat = dim is None or self.ndim == 1
    place = 0 if is_flat else axis(self, dim or 0)
    rows = self.reshape(-1) if is_flat else jnp.moveaxis(self, place, 0)
    starts = starts_of_groups(rows)
    groups = (jnp.cumsum(starts) - 1).astype(held("int64"))
    inverse = groups.reshape(self.shape) if is_flat else groups
    counts = jnp.bincount(groups).astype(held("int64"))
    results = jnp.moveaxis(rows[starts], 0, place), inverse, counts
    return asked_for(results, return_inverse, return_counts) if is_flat else results


@register_operator("aten.bincount.default")
def bincount(self: Array, weights: Array | None = None, minlength: int = 0) -> Array:
    """Return how often each number from 0 to the largest occurs, or the sum of its weights."""
    require_in_range(self, 0, 2**31, "elements of bincount")
    counts = jnp.bincount(self, weights, minlength=minlength)
    if weights is None:
        return counts.astype(held("int64"))
    return counts.astype(weights.dtype if weights.dtype == jnp.float32 else held("float64"))
