"""Connectionist temporal classification (Graves et al., 2006, https://doi.org/10.1145/1143844.1143891).

The states of a target of S classes are its classes with a blank before, between and after them: 2 S + 1.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer

from jaxlstm.programs.operators.registry import register_operator

_NONE, _MEAN = 0, 1
_NEVER = -1e30
"""The logarithm of no probability: gradients of sums of infinities are NaN."""


@register_operator("aten.ctc_loss.Tensor", "aten.ctc_loss.IntList")
def ctc_loss(
    log_probs: Array,
    targets: Array,
    input_lengths: Any,
    target_lengths: Any,
    blank: int = 0,
    reduction: int = _MEAN,
    zero_infinity: bool = False,
) -> Array:
    """Return -log of the probability of all paths through the frames that spell the target.

    ``log_probs`` has the shape (T, N, classes) or (T, classes); ``targets`` (N, S), or all in one row. The
    loss is NaN for lengths beyond these sizes, and for the blank as a class of a target.
    """
    is_single = log_probs.ndim == 2
    frames = log_probs[:, None] if is_single else log_probs
    input_lengths, lengths = (jnp.asarray(x).reshape(-1) for x in (input_lengths, target_lengths))
    if input_lengths.shape != lengths.shape or lengths.shape != frames.shape[1:2]:
        raise ValueError(f"lengths must be one for each of {frames.shape[1]} sequences")
    if not 0 <= blank < frames.shape[2]:
        raise ValueError(f"blank must be a class, from 0 to {frames.shape[2] - 1}, got {blank}")
    rows = _rows(targets, lengths)
    total = _total(frames, rows, input_lengths, lengths, blank)
    is_impossible = total < _NEVER / 2
    # torch adds the probabilities to the gradient: after a log softmax, they change nothing.
    used = jnp.arange(frames.shape[0])[:, None] < input_lengths
    probabilities = jnp.where(used[..., None], jnp.exp(frames), 0).sum((0, 2))
    losses = probabilities - jax.lax.stop_gradient(probabilities) - total
    # The gradient of infinity is NaN. Under jit, XLA simplifies the logarithm of an exponential.
    zero = jnp.where(is_impossible, total - jax.lax.stop_gradient(total), 1)
    infinity = 0 if zero_infinity else -jnp.log(zero * zero)
    losses = jnp.where(is_impossible, infinity, losses)
    has_blank = ((rows == blank) & (jnp.arange(rows.shape[1]) < lengths[:, None])).any(1)
    fits = lengths <= targets.shape[1] if targets.ndim == 2 else lengths.sum() == targets.shape[0]
    fits &= (lengths >= 0) & (input_lengths >= 0) & (input_lengths <= frames.shape[0])
    losses = jnp.where(fits & ~has_blank, losses, jnp.nan)
    if reduction == _MEAN:
        return (losses / jnp.maximum(lengths, 1).astype(losses.dtype)).mean()
    if reduction != _NONE:
        return losses.sum()
    return losses[0] if is_single else losses


def _rows(targets: Array, lengths: Array) -> Array:
    """Return targets that are in one row as (N, S); the places after their ends have any class."""
    if targets.ndim == 2:
        return targets
    starts = jnp.cumsum(lengths) - lengths
    most = targets.shape[0] if isinstance(lengths, Tracer) else int(lengths.max(initial=0))
    places = starts[:, None] + jnp.arange(most)
    return targets[jnp.minimum(places, targets.shape[0] - 1)] if targets.size else targets[None][:, :0]


def _total(frames: Array, targets: Array, input_lengths: Array, lengths: Array, blank: int) -> Array:
    """Return the logarithm of the probability of each target by the forward recursion over its states."""
    batch, most = targets.shape
    states = jnp.full((batch, 2 * most + 1), blank, targets.dtype).at[:, 1::2].set(targets)
    # A class follows another one without a blank between them.
    skips = (states != blank) & (states != jnp.pad(states, ((0, 0), (2, 0)), constant_values=blank)[:, :-2])
    start = jnp.where(jnp.arange(states.shape[1]) < 1, 0.0, _NEVER).astype(frames.dtype)

    def shifted(alpha: Array, by: int) -> Array:
        return jnp.pad(alpha, ((0, 0), (by, 0)), constant_values=_NEVER)[:, : alpha.shape[1]]

    def step(alpha: Array, frame: tuple[Array, Array]) -> tuple[Array, None]:
        t, scores = frame
        stay_or_next = jnp.logaddexp(alpha, shifted(alpha, 1))
        reached = jnp.logaddexp(stay_or_next, jnp.where(skips, shifted(alpha, 2), _NEVER))
        after = reached + jnp.take_along_axis(jnp.maximum(scores, _NEVER), states, 1)
        return jnp.where(t < input_lengths[:, None], after, alpha), None

    alpha = jnp.broadcast_to(start, states.shape)
    alpha, _ = jax.lax.scan(step, alpha, (jnp.arange(frames.shape[0]), frames))
    ends = jnp.stack([2 * lengths, jnp.maximum(2 * lengths - 1, 0)], 1)
    last = jnp.take_along_axis(alpha, ends, 1)
    last = jnp.where((lengths == 0)[:, None] & (jnp.arange(2) == 1), _NEVER, last)
    return jnp.logaddexp(last[:, 0], last[:, 1])
