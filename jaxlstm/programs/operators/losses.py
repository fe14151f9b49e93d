"""Losses. ``reduction`` is 0 for one loss per element, 1 for their mean, 2 for their sum."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxlstm.layer.precision import gate_dtype
from jaxlstm.programs.operators.activations import log_softmax
from jaxlstm.programs.operators.dtypes import promoted
from jaxlstm.programs.operators.indexing import require_in_range
from jaxlstm.programs.operators.pairs import xlogy
from jaxlstm.programs.operators.reductions import mean, sum_
from jaxlstm.programs.operators.registry import register_operator
from jaxlstm.programs.operators.unary import magnitude

_NONE, _MEAN = 0, 1
_LEAST_VARIANCE = float(np.float32(1e-12))  # torch rounds it to float32


def _reduced(losses: jax.Array, reduction: int) -> jax.Array:
    if reduction == _NONE:
        return losses
    return mean(losses) if reduction == _MEAN else sum_(losses)


@register_operator("aten.mse_loss.default")
def mse_loss(self: jax.Array, target: jax.Array, reduction: int = _MEAN) -> jax.Array:
    """Return the squared difference."""
    self, target = promoted(self, target)
    return _reduced(jnp.square(self - target), reduction)


@register_operator("aten.l1_loss.default")
def l1_loss(self: jax.Array, target: jax.Array, reduction: int = _MEAN) -> jax.Array:
    """Return the absolute difference."""
    self, target = promoted(self, target)
    return _reduced(magnitude(self - target), reduction)


@register_operator("aten.huber_loss.default")
def huber_loss(self: jax.Array, target: jax.Array, reduction: int = _MEAN, delta: float = 1.0) -> jax.Array:
    """Return half the squared difference, linear where it exceeds ``delta``."""
    self, target = promoted(self, target)
    size = magnitude(self - target)
    return _reduced(jnp.where(size <= delta, 0.5 * size * size, delta * (size - 0.5 * delta)), reduction)


@register_operator("aten.smooth_l1_loss.default")
def smooth_l1_loss(
    self: jax.Array, target: jax.Array, reduction: int = _MEAN, beta: float = 1.0
) -> jax.Array:
    """Return the absolute difference, quadratic where it is below ``beta``."""
    if beta == 0:
        return l1_loss(self, target, reduction)
    self, target = promoted(self, target)
    size = magnitude(self - target)
    return _reduced(jnp.where(size < beta, 0.5 * size * size / beta, size - 0.5 * beta), reduction)


@register_operator("aten.binary_cross_entropy_with_logits.default")
def binary_cross_entropy_with_logits(
    self: jax.Array,
    target: jax.Array,
    weight: jax.Array | None = None,
    pos_weight: jax.Array | None = None,
    reduction: int = _MEAN,
) -> jax.Array:
    """Return the cross entropy of the sigmoid; ``pos_weight`` multiplies the term of the target."""
    positive = 1 if pos_weight is None else (pos_weight - 1) * target + 1
    losses = (1 - target) * self - positive * jax.nn.log_sigmoid(self)
    return _reduced(losses if weight is None else losses * weight, reduction)


@register_operator("aten.binary_cross_entropy.default")
def binary_cross_entropy(
    self: jax.Array, target: jax.Array, weight: jax.Array | None = None, reduction: int = _MEAN
) -> jax.Array:
    """Return the cross entropy of probabilities; logarithms are at least -100."""
    if not isinstance(self, Tracer) and not bool(jnp.all((self >= 0) & (self <= 1))):
        raise ValueError("binary_cross_entropy needs probabilities from 0 to 1; apply a sigmoid before")
    wide = gate_dtype(self.dtype)
    losses = _entropy(self.astype(wide), target.astype(wide))
    losses = losses if weight is None else losses * weight
    return _reduced(losses.astype(self.dtype), reduction)


@jax.custom_jvp
def _entropy(x: jax.Array, target: jax.Array) -> jax.Array:
    lowest = -100
    return (target - 1) * jnp.maximum(jnp.log1p(-x), lowest) - target * jnp.maximum(jnp.log(x), lowest)


@_entropy.defjvp
def _entropy_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    """Return torch's gradient, which differs from the derivative of the bounded logarithms."""
    x, target = primals
    by_x = (x - target) / jnp.maximum(x * (1 - x), _LEAST_VARIANCE)
    return _entropy(x, target), by_x * tangents[0] + (jnp.log1p(-x) - jnp.log(x)) * tangents[1]


@register_operator("aten.kl_div.default")
def kl_div(
    self: jax.Array, target: jax.Array, reduction: int = _MEAN, *, log_target: bool = False
) -> jax.Array:
    """Return the divergence of logarithms of probabilities from a target distribution of the same shape.

    The gradient by a target of 0 is finite; torch's is NaN.
    """
    self, target = promoted(self, target)
    terms = jnp.exp(target) * (target - self) if log_target else xlogy(target, target) - target * self
    return _reduced(terms, reduction)


@register_operator("aten.cross_entropy_loss.default")
def cross_entropy_loss(
    self: jax.Array,
    target: jax.Array,
    weight: jax.Array | None = None,
    reduction: int = _MEAN,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> jax.Array:
    """Return the cross entropy of the softmax over the classes, for indices or for probabilities.

    Args:
      self: the scores, (N, C, ...) or (C,).
      target: indices (N, ...) or (), or probabilities in the shape of the scores.
      weight: a factor for each class, (C,).
      reduction: the mean divides by the sum of the weights of the targets, for probabilities by N times the
        other sizes.
      ignore_index: the index of targets without a loss.
      label_smoothing: the share of the uniform distribution in the target.
    """
    place = 1 if self.ndim > 1 else 0
    scores = log_softmax(self, place)
    if target.shape != self.shape:
        return _index_loss(scores, target, weight, reduction, ignore_index, label_smoothing)
    smoothed = target * (1 - label_smoothing) + label_smoothing / self.shape[place]
    losses = -jnp.sum(scores * smoothed * _by_class(weight, self), place)
    return _reduced(losses, reduction)


@register_operator("aten.nll_loss_nd.default")
def nll_loss(
    self: jax.Array,
    target: jax.Array,
    weight: jax.Array | None = None,
    reduction: int = _MEAN,
    ignore_index: int = -100,
) -> jax.Array:
    """Return the negative score of the target class, for logarithms of probabilities (N, C, ...) or (C,)."""
    return _index_loss(self, target, weight, reduction, ignore_index, 0.0)


def _index_loss(
    scores: jax.Array,
    target: jax.Array,
    weight: jax.Array | None,
    reduction: int,
    ignore_index: int,
    label_smoothing: float,
) -> jax.Array:
    place = 1 if scores.ndim > 1 else 0
    classes = scores.shape[place]
    is_ignored = target == ignore_index
    chosen = jnp.where(is_ignored, 0, target)
    require_in_range(chosen, 0, classes, "targets of a cross entropy")
    weighted = scores * _by_class(weight, scores)
    losses = -_of_target(weighted, chosen, place) * (1 - label_smoothing)
    if label_smoothing:
        losses -= jnp.sum(weighted, place) * (label_smoothing / classes)
    losses = jnp.where(is_ignored, 0, losses)
    if reduction != _MEAN:
        return _reduced(losses, reduction)
    ones = jnp.ones(classes, scores.dtype)
    weights = jnp.where(is_ignored, 0, (ones if weight is None else weight)[chosen])
    return sum_(losses) / sum_(weights)


def _by_class(weight: jax.Array | None, scores: jax.Array) -> jax.Array | int:
    """Return the weights of the classes for a product with the scores."""
    return 1 if weight is None else weight.reshape(-1, *((1,) * (scores.ndim - 2)))


def _of_target(scores: jax.Array, target: jax.Array, place: int) -> jax.Array:
    """Return the scores of the target classes; NaN for an index that is out of range."""
    beyond = jnp.where(target < 0, scores.shape[place], target)
    taken = jnp.take_along_axis(scores, jnp.expand_dims(beyond, place), place, mode="fill")
    return jnp.squeeze(taken, place)
