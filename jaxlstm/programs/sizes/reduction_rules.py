"""Rules of operators that combine the elements along an axis of unknown size: only torch's elements count."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxlstm.programs.operators.axes import axes
from jaxlstm.programs.operators.indexing import take
from jaxlstm.programs.operators.reductions import mean, sum_
from jaxlstm.programs.sizes.prefix import Apply, Prefix, array_of, is_among, run_proven


def masked(x: Prefix, fill: float, over: Sequence[int]) -> Array:
    """Return the array, with a number for the elements after the end of some axes."""
    array = x.array
    for place in {*over}.intersection(x.axes):
        array = jnp.where(x.valid(place), array, jnp.asarray(fill, array.dtype))
    return array


def _reduce(fill: float | None, apply: Apply, self: Any, dim: Any = None, **settings: Any) -> Any:
    """Reduce the elements that torch has; the others hold a neutral element or repeat the first one."""
    over = axes(self.array, dim) if isinstance(self, Prefix) else ()
    if not isinstance(self, Prefix) or not {*over}.intersection(self.axes):
        return None
    # Equal elements share the gradient of an extremum, but integers have no gradient.
    is_neutral = fill is not None and (math.isfinite(fill) or jnp.issubdtype(self.array.dtype, jnp.inexact))
    array = masked(self, fill, over) if fill is not None and is_neutral else self.repeated().array
    results = apply(array, **settings) if dim is None else apply(array, dim=dim, **settings)
    return jax.tree.map(partial(_without_axes, self, over), results)


def _extremum(fill: float | None, apply: Apply, self: Any, dim: Any = None, **settings: Any) -> Any:
    """Return a largest or smallest element, or its place."""
    result = _reduce(fill, apply, self, dim, **settings)
    return None if result is None else self.unless_empty(result)


def _place(apply: Apply, self: Any, dim: Any = None, **settings: Any) -> Any:
    """Return the place of a largest or smallest element: without ``dim``, among those that torch has."""
    result = _reduce(None, apply, self, dim, **settings)
    if result is None or dim is not None:
        return None if result is None else self.unless_empty(result)
    place = jnp.zeros((), result.dtype)
    for axis, index in enumerate(jnp.unravel_index(result, self.array.shape)):
        size = self.count.number() if axis in self.axes else self.array.shape[axis]
        place = place * size + index
    return self.unless_empty(place.astype(result.dtype))


def _without_axes(self: Prefix, over: Sequence[int], result: Array) -> Any:
    """Return a result without some axes, which may keep them with one element."""
    left = [place for place in self.axes if place not in over]
    if result.ndim < self.array.ndim:
        left = [place - sum(n < place for n in over) for place in left]
    return replace(self, array=result, axes=tuple(left)) if left else result


def scaled(result: Any, factor: Any) -> Any:
    """Return the product with a number, in the dtype of the result."""
    array = array_of(result)
    product = (array * factor).astype(array.dtype)
    return replace(result, array=product) if isinstance(result, Prefix) else product


def _mean(apply: Apply, self: Any, dim: Any = None, **settings: Any) -> Any:
    result = _reduce(0.0, apply, self, dim, **settings)
    if result is None:
        return None
    left = len(result.axes) if isinstance(result, Prefix) else 0
    size = self.array.shape[self.axes[0]]
    return scaled(result, (size / self.count.number()) ** (len(self.axes) - left))


def _moment(is_root: bool, apply: Apply, self: Any, dim: Any = None, **settings: Any) -> Any:
    """Return the variance or its root. The other elements are the mean, and add nothing to the squares."""
    if not isinstance(self, Prefix) or axes(self.array, dim) != (self.axis,):
        return None
    size, number = self.array.shape[self.axis], self.count.number()
    average = masked(self, 0, self.axes).sum(self.axis, keepdims=True) / number
    result = apply(jnp.where(self.valid(), self.array, average), dim, **settings)
    # The mean of equal elements may differ from them by rounding.
    result = jnp.where(number == 1, jnp.zeros((), result.dtype), result)
    correction = settings.get("correction")
    removed = int(settings.get("unbiased", True)) if correction is None else correction
    factor = (size - removed) / jnp.maximum(number - removed, 0)
    return scaled(result, jnp.sqrt(factor) if is_root else factor)


def _norm(apply: Apply, self: Any, ord: Any = 2, dim: Any = None, **settings: Any) -> Any:
    order = 2 if ord is None else ord
    return _reduce(0.0, apply, self, dim, ord=ord, **settings) if order > 0 else None


def _loss(apply: Apply, reduction: int = 1, **kwargs: Any) -> Any:
    """Reduce the losses of the elements that torch has."""
    losses, _ = run_proven(apply, (), {**kwargs, "reduction": 0})
    if not isinstance(losses, Prefix) or reduction == 0:
        return losses
    return _mean(mean, losses) if reduction == 1 else _reduce(0.0, sum_, losses)


def _loss_of_classes(
    apply: Apply,
    self: Any,
    target: Any,
    weight: Any = None,
    reduction: int = 1,
    ignore_index: int = -100,
    **settings: Any,
) -> Any:
    """Return the loss of scores (N, classes, ...), which leaves out the targets that torch lacks."""
    if not isinstance(self, Prefix) or not isinstance(target, Prefix) or reduction == 0:
        return None
    is_one = self.axes == (target.axis + (target.axis > 0),)
    if not is_one or not jnp.issubdtype(target.array.dtype, jnp.integer):
        return None
    places = jnp.where(target.valid(), target.array, ignore_index)
    return apply(self.array, places, weight, reduction, ignore_index, **settings)


def _softmax(apply: Apply, self: Any, dim: int, **settings: Any) -> Any:
    over = axes(self.array, dim) if isinstance(self, Prefix) else ()
    if not isinstance(self, Prefix) or not {*over}.intersection(self.axes):
        return None
    return replace(self, array=apply(masked(self, -math.inf, over), dim, **settings)).repeated()


def _largest(apply: Apply, self: Any, k: int, dim: int = -1, largest: bool = True, **settings: Any) -> Any:
    """Return the k largest or smallest elements, NaN if torch has fewer."""
    if not isinstance(self, Prefix) or axes(self.array, dim) != (self.axis,) or is_among(k):
        return None
    if not jnp.issubdtype(self.array.dtype, jnp.inexact):
        return None
    found = apply(masked(self, -math.inf if largest else math.inf, self.axes), k, dim, largest, **settings)
    places = jnp.where(jnp.arange(k) < self.count.number(), jnp.arange(k), k)
    return jax.tree.map(lambda result: take(result, places, self.axis), found)


def _median(apply: Apply, self: Any, **settings: Any) -> Any:
    """Return the lower median. As many other elements are the least number as keep it in the middle."""
    array, valid = self.array, jnp.broadcast_to(self.valid(), self.array.shape)
    if "dim" not in settings:
        array, valid = array.reshape(-1), valid.reshape(-1)
    elif axes(array, settings["dim"]) != (self.axis,):
        return None
    along = self.axis if "dim" in settings else 0
    limits = None if jnp.issubdtype(array.dtype, jnp.inexact) else jnp.iinfo(array.dtype)
    least, most = (-math.inf, math.inf) if limits is None else (limits.min, limits.max)
    before = (array.shape[along] - 1) // 2 - (valid.sum(along, keepdims=True) - 1) // 2
    others = jnp.where(jnp.cumsum(~valid, along) <= before, least, most)
    return self.unless_empty(apply(jnp.where(valid, array, others), **settings))


def _product(apply: Apply, self: Any, other: Any) -> Any:
    """Multiply matrices, if the sums of products are over the axis."""
    ranks = array_of(self).ndim, array_of(other).ndim
    inner = "a" * min(ranks[0] - 1, 1) + "b", "b" + "c" * min(ranks[1] - 1, 1)
    outer = [chr(ord("z") - place) for place in range(max(ranks) - 2)]
    terms = [
        "".join(outer[max(len(outer) - rank + 2, 0) :]) + term
        for rank, term in zip(ranks, inner, strict=True)
    ]
    result = "".join(outer) + inner[0][:-1] + inner[1][1:]
    return _sums(lambda arrays: apply(*arrays), terms, result, (self, other))


def _einsum(apply: Apply, equation: str, tensors: Sequence[Any], path: Any = None) -> Any:
    terms, arrow, result = equation.replace(" ", "").partition("->")
    labels = terms.split(",")
    if not arrow or "." in equation or any(len({*term}) < len(term) for term in labels):
        return None
    return _sums(lambda arrays: apply(equation, tuple(arrays)), labels, result, tensors)


def _sums(
    run: Callable[[list[Array]], Array], terms: Sequence[str], result: str, operands: Sequence[Any]
) -> Any:
    """Sum products over the elements that torch has. The axes of operands and of the result have letters."""
    unknown = [x for x in operands if isinstance(x, Prefix)]
    axes = {
        term[place]
        for term, x in zip(terms, operands, strict=True)
        if isinstance(x, Prefix)
        for place in x.axes
    }
    places = tuple(place for place, letter in enumerate(result) if letter in axes)
    if axes <= {*result} or (places and any(x.count.value is not unknown[0].count.value for x in unknown)):
        return None
    arrays = [
        masked(x, 0, [term.index(letter) for letter in {*term} - {*result}]) if isinstance(x, Prefix) else x
        for term, x in zip(terms, operands, strict=True)
    ]
    return replace(unknown[0], array=run(arrays), axes=places) if places else run(arrays)


def _attention(
    apply: Apply,
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **settings: Any,
) -> Any:
    """Attend to the keys that torch has."""
    if not isinstance(key, Prefix) or not isinstance(value, Prefix) or is_among(settings):
        return None
    steps = key.array.ndim - 2
    is_self = isinstance(query, Prefix) and query.count.value is key.count.value
    if {key.axes, value.axes, query.axes if is_self else key.axes} != {(steps,)} or (
        is_among(query) > is_self
    ):
        return None
    mask, is_valid = array_of(attn_mask), key.valid().reshape(-1)
    if is_causal:
        mask = jnp.tri(array_of(query).shape[-2], is_valid.size, dtype=bool)
    none = -math.inf if mask is not None and mask.dtype != bool else False
    is_valid = jnp.broadcast_to(is_valid, (array_of(query).shape[-2], is_valid.size))
    mask = is_valid if mask is None else jnp.where(is_valid, mask, jnp.asarray(none, mask.dtype))
    keys, values = (masked(x, 0, x.axes) for x in (key, value))
    result = apply(array_of(query), keys, values, mask, dropout_p, **settings)
    return replace(query, array=result) if isinstance(query, Prefix) else result


_LOSSES = [
    "mse_loss",
    "l1_loss",
    "huber_loss",
    "smooth_l1_loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "kl_div",
]
REDUCTIONS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("aten.sum.default", "aten.sum.dim_IntList"), partial(_reduce, 0.0)),
    **dict.fromkeys(("aten.prod.default", "aten.prod.dim_int"), partial(_reduce, 1.0)),
    **dict.fromkeys(("aten.mean.default", "aten.mean.dim"), _mean),
    "aten.logsumexp.default": partial(_reduce, -math.inf),
    **{f"aten.any.{form}": partial(_reduce, 0.0) for form in ("default", "dim", "dims")},
    **{f"aten.all.{form}": partial(_reduce, 1.0) for form in ("default", "dim", "dims")},
    **dict.fromkeys(("aten.max.dim", "aten.min.dim"), partial(_extremum, None)),
    **dict.fromkeys(("aten.argmax.default", "aten.argmin.default"), _place),
    **dict.fromkeys(("aten.amax.default", "aten.max.default"), partial(_extremum, -math.inf)),
    **dict.fromkeys(("aten.amin.default", "aten.min.default"), partial(_extremum, math.inf)),
    **{f"aten.var.{form}": partial(_moment, False) for form in ("default", "dim", "correction")},
    **{f"aten.std.{form}": partial(_moment, True) for form in ("default", "dim", "correction")},
    "aten.linalg_vector_norm.default": _norm,
    **dict.fromkeys((f"aten.{name}.default" for name in _LOSSES), _loss),
    **dict.fromkeys(("aten.cross_entropy_loss.default", "aten.nll_loss_nd.default"), _loss_of_classes),
    **dict.fromkeys(("aten.softmax.int", "aten.log_softmax.int"), _softmax),
    "aten.topk.default": _largest,
    **dict.fromkeys(("aten.median.default", "aten.median.dim"), _median),
    **dict.fromkeys(("aten.bmm.default", "aten.matmul.default"), _product),
    "aten.einsum.default": _einsum,
    "aten.scaled_dot_product_attention.default": _attention,
}
