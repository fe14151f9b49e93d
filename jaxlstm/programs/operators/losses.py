"""Losses. ``reduction`` is 0 for one loss per element, 1 for their mean, 2 for their sum."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxlstm.layer.precision import gate_dtype
from jaxlstm.programs.operators.activations import normalized
from jaxlstm.programs.operators.arithmetic import xlogy
from jaxlstm.programs.operators.dtypes import promoted
from jaxlstm.programs.operators.indexing import require_in_range
from jaxlstm.programs.operators.reductions import mean, sum_
from jaxlstm.programs.operators.registry import register_family, register_operator
from jaxlstm.programs.operators.unary import magnitude

_NONE, _MEAN = 0, 1
_LEAST_VARIANCE = float(np.float32(1e-12))  # torch rounds it to float32


def _reduced(losses: Array, reduction: int) -> Array:
    if reduction == _NONE:
        return losses
    return mean(losses) if reduction == _MEAN else sum_(losses)


def _of_difference(function: Any, self: Array, target: Array, reduction: int = _MEAN) -> Array:
    self, target = promoted(self, target)
    return _reduced(function(self - target), reduction)


register_family(_of_difference, {"mse_loss": jnp.square, "l1_loss": magnitude})


@register_operator("aten.huber_loss.default")
def huber_loss(self: Array, target: Array, reduction: int = _MEAN, delta: float = 1.0) -> Array:
    """Return half the squared difference, linear where it exceeds ``delta``."""

    def loss(difference: Array) -> Array:
        size = magnitude(difference)
        return jnp.where(size <= delta, 0.5 * size * size, delta * (size - 0.5 * delta))

    return _of_difference(loss, self, target, reduction)


@register_operator("aten.smooth_l1_loss.default")
def smooth_l1_loss(self: Array, target: Array, reduction: int = _MEAN, beta: float = 1.0) -> Array:
    """Return the absolute difference, quadratic where it is below ``beta``."""

    def loss(difference: Array) -> Array:
        size = magnitude(difference)
        return size if beta == 0 else jnp.where(size < beta, 0.5 * size * size / beta, size - 0.5 * beta)

    return _of_difference(loss, self, target, reduction)


@register_operator("aten.binary_cross_entropy_with_logits.default")
def binary_cross_entropy_with_logits(
    self: Array,
    target: Array,
    weight: Array | None = None,
    pos_weight: Array | None = None,
    reduction: int = _MEAN,
) -> Array:
    """Return the cross entropy of the sigmoid; ``pos_weight`` multiplies the term of the target."""
    positive = 1 if pos_weight is None else (pos_weight - 1) * target + 1
    losses = (1 - target) * self - positive * jax.nn.log_sigmoid(self)
    return _reduced(losses if weight is None else losses * weight, reduction)


@register_operator("aten.binary_cross_entropy.default")
def binary_cross_entropy(
    self: Array, target: Array, weight: Array | None = None, reduction: int = _MEAN
) -> Array:
    """Return the cross entropy of probabilities; logarithms are at least -100."""
    if not isinstance(self, Tracer) and not bool(jnp.all((self >= 0) & (self <= 1))):
        raise ValueError("binary_cross_entropy needs probabilities from 0 to 1; apply a sigmoid before")
    wide_dtype = gate_dtype(self.dtype)
    losses = _entropy(self.astype(wide_dtype), target.astype(wide_dtype))
    losses = losses if weight is None else losses * weight
    return _reduced(losses.astype(self.dtype), reduction)


@jax.custom_jvp
def _entropy(x: Array, target: Array) -> Array:
    lowest = -100
    return (target - 1) * jnp.maximum(jnp.log1p(-x), lowest) - target * jnp.maximum(jnp.log(x), lowest)


@_entropy.defjvp
def _entropy_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    """Return torch's gradient, which differs from the derivative of the bounded logarithms."""
    x, target = primals
    by_x = (x - target) / jnp.maximum(x * (1 - x), _LEAST_VARIANCE)
    return _entropy(x, target), by_x * tangents[0] + (jnp.log1p(-x) - jnp.log(x)) * tangents[1]


@register_operator("aten.kl_div.default")
def kl_div(self: Array, target: Array, reduction: int = _MEAN, *, log_target: bool = False) -> Array:
    """Return the divergence of logarithms of probabilities from a target distribution of the same shape.

    The gradient by a target of 0 is finite; torch's is NaN.
    """
    self, target = promoted(self, target)
    terms = jnp.exp(target) * (target - self) if log_target else xlogy(target, target) - target * self
    return _reduced(terms, reduction)


@register_operator("aten.cross_entropy_loss.default")
def cross_entropy_loss(
    self: Array,
    target: Array,
    weight: Array | None = None,
    reduction: int = _MEAN,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> Array:
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
    scores = normalized(jax.nn.log_softmax, self, place)
    if target.shape != self.shape:
        return nll_loss(scores, target, weight, reduction, ignore_index, label_smoothing)
    smoothed = target * (1 - label_smoothing) + label_smoothing / self.shape[place]
    losses = -jnp.sum(scores * smoothed * _by_class(weight, self), place)
    return _reduced(losses, reduction)


@register_operator("aten.nll_loss_nd.default")
def nll_loss(
    self: Array,
    target: Array,
    weight: Array | None = None,
    reduction: int = _MEAN,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> Array:
    """Return the negative score of the target class, for logarithms of probabilities (N, C, ...) or (C,).

    ``label_smoothing`` is the one of :func:`cross_entropy_loss`.
    """
    place = 1 if self.ndim > 1 else 0
    classes = self.shape[place]
    is_ignored = target == ignore_index
    index = jnp.where(is_ignored, 0, target)
    require_in_range(index, 0, classes, "targets of a cross entropy")
    weighted = self * _by_class(weight, self)
    losses = -_of_target(weighted, index, place) * (1 - label_smoothing)
    if label_smoothing:
        losses -= jnp.sum(weighted, place) * (label_smoothing / classes)
    losses = jnp.where(is_ignored, 0, losses)
    if reduction != _MEAN:
        return _reduced(losses, reduction)
    ones = jnp.ones(classes, self.dtype)
    weights = jnp.where(is_ignored, 0, (ones if weight is None else weight)[index])
    return sum_(losses) / sum_(weights)


def _by_class(weight: Array | None, scores: Array) -> Array | int:
    """Return the weights of the classes for a product with the scores."""
    return 1 if weight is None else weight.reshape(-1, *((1,) * (scores.ndim - 2)))


def _of_target(scores: Array, target: Array, place: int) -> Array:
    """Return the scores of the target classes; NaN for an index that is out of range."""
    beyond = jnp.where(target < 0, scores.shape[place], target)
    target_scores = jnp.take_along_axis(scores, jnp.expand_dims(beyond, place), place, mode="fill")
    return jnp.squeeze(target_scores, place)
