"""Normalization. Half precision is computed in float32, as in torch."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array

from jaxlstm.layer.precision import gate_dtype
from jaxlstm.programs.operators.axes import axis
from jaxlstm.programs.operators.registry import Kwargs, register_layouts, register_operator

Optional = Array | None


def _updates_statistics(kwargs: Kwargs) -> bool:
    uses_batch = kwargs.get("training") or kwargs.get("use_input_stats")
    return bool(uses_batch) and kwargs.get("running_mean") is not None


@register_layouts("aten.batch_norm.default", in_training=_updates_statistics)
def batch_norm(
    last: bool,
    input: Array,
    weight: Optional,
    bias: Optional,
    running_mean: Optional,
    running_var: Optional,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool = False,
) -> Array:
    """Normalize each channel by its running statistics, or by the batch if they are None."""
    x = _wide(input)
    if running_mean is None or running_var is None:
        y = _standardize(x, (0, *_positions(last, x)), eps)
    else:
        mean, var = (_per_channel(last, values, x) for values in (running_mean, running_var))
        y = (x - mean) * jax.lax.rsqrt(var + eps)
    return _scale_channels(last, y, weight, bias).astype(input.dtype)


@register_operator("aten._native_batch_norm_legit_no_training.default")
def native_batch_norm(
    input: Array,
    weight: Optional,
    bias: Optional,
    running_mean: Array,
    running_var: Array,
    momentum: float,
    eps: float,
) -> tuple[Array, Array, Array]:
    """Return the batch normalization and two empty tensors."""
    y = batch_norm(False, input, weight, bias, running_mean, running_var, False, momentum, eps)
    return y, jnp.zeros(0, input.dtype), jnp.zeros(0, input.dtype)


@register_operator("aten._native_batch_norm_legit.no_stats")
def native_batch_norm_without_statistics(
    input: Array, weight: Optional, bias: Optional, training: bool, momentum: float, eps: float
) -> tuple[Array, Array, Array]:
    """Return the normalization by the batch, the means and the reciprocal standard deviations."""
    mean, scale = _statistics(_wide(input), (0, *range(2, input.ndim)), eps)
    y = batch_norm(False, input, weight, bias, None, None, training, momentum, eps)
    return y, mean.reshape(-1), scale.reshape(-1)


@register_operator("aten.layer_norm.default")
def layer_norm(
    input: Array,
    normalized_shape: Sequence[int],
    weight: Optional = None,
    bias: Optional = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Array:
    """Normalize over the last axes."""
    last = tuple(range(-len(normalized_shape), 0))
    return _scale_and_shift(_standardize(_wide(input), last, eps), weight, bias).astype(input.dtype)


@register_operator("aten.native_layer_norm.default")
def native_layer_norm(
    input: Array, normalized_shape: Sequence[int], weight: Optional, bias: Optional, eps: float
) -> tuple[Array, Array, Array]:
    """Return the layer normalization, the mean and the reciprocal standard deviation."""
    last = tuple(range(-len(normalized_shape), 0))
    mean, scale = _statistics(_wide(input), last, eps)
    return layer_norm(input, normalized_shape, weight, bias, eps), mean, scale


@register_operator("aten.rms_norm.default")
def rms_norm(
    input: Array, normalized_shape: Sequence[int], weight: Optional = None, eps: float | None = None
) -> Array:
    """Divide by the root mean square over the last axes; ``eps`` is the dtype's epsilon if None."""
    x = _wide(input)
    last = tuple(range(-len(normalized_shape), 0))
    epsilon = float(jnp.finfo(input.dtype).eps) if eps is None else eps
    y = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), last, keepdims=True) + epsilon)
    return _scale_and_shift(y, weight, None).astype(input.dtype)


@register_layouts("aten.group_norm.default")
def group_norm(
    last: bool,
    input: Array,
    num_groups: int,
    weight: Optional = None,
    bias: Optional = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Array:
    """Normalize groups of channels with all their positions."""
    x = _wide(input)
    place = x.ndim - 1 if last else 1
    split = (num_groups, x.shape[place] // num_groups)
    grouped = x.reshape(*x.shape[:place], *split, *x.shape[place + 1 :])
    axes = tuple(axis for axis in range(1, grouped.ndim) if axis != place)
    y = _standardize(grouped, axes, eps).reshape(x.shape)
    return _scale_channels(last, y, weight, bias).astype(input.dtype)


@register_operator("aten.native_group_norm.default")
def native_group_norm(
    input: Array, weight: Optional, bias: Optional, N: int, C: int, HxW: int, group: int, eps: float
) -> tuple[Array, Array, Array]:
    """Return the group normalization, the means and the reciprocal standard deviations."""
    mean, scale = _statistics(_wide(input).reshape(N, group, C // group * HxW), (-1,), eps)
    return group_norm(False, input, group, weight, bias, eps), mean.squeeze(-1), scale.squeeze(-1)


@register_layouts("aten.instance_norm.default", in_training=_updates_statistics)
def instance_norm(
    last: bool,
    input: Array,
    weight: Optional,
    bias: Optional,
    running_mean: Optional,
    running_var: Optional,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Array:
    """Normalize each channel of each row over its positions, or by the running statistics."""
    if not use_input_stats:
        return batch_norm(last, input, weight, bias, running_mean, running_var, False, momentum, eps)
    x = _wide(input)
    y = _standardize(x, _positions(last, x), eps)
    return _scale_channels(last, y, weight, bias).astype(input.dtype)


@register_operator("aten._weight_norm.default")
def weight_norm(v: Array, g: Array, dim: int = 0) -> Array:
    """Return ``g * v / norm(v)``, with the norm over all axes but ``dim``; over all for -1."""
    return weight_norm_interface(v, g, dim)[0]


@register_operator("aten._weight_norm_interface.default")
def weight_norm_interface(v: Array, g: Array, dim: int = 0) -> tuple[Array, Array]:
    """Return the weight of :func:`weight_norm` and the norm."""
    kept = () if dim == -1 else (axis(v, dim),)
    axes = tuple(place for place in range(v.ndim) if place not in kept)
    norm = jnp.sqrt(jnp.sum(jnp.square(_wide(v)), axes, keepdims=dim != -1))
    return (_wide(v) * (_wide(g) / norm)).astype(v.dtype), norm


def _wide(x: Array) -> Array:
    return x.astype(gate_dtype(x.dtype))


def _statistics(x: Array, places: tuple[int, ...], eps: float) -> tuple[Array, Array]:
    """Return the mean and the reciprocal standard deviation over axes."""
    mean = jnp.mean(x, places, keepdims=True)
    var = jnp.mean(jnp.square(x - mean), places, keepdims=True)
    return mean, jax.lax.rsqrt(var + eps)


def _standardize(x: Array, places: tuple[int, ...], eps: float) -> Array:
    mean, scale = _statistics(x, places, eps)
    return (x - mean) * scale


def _scale_and_shift(x: Array, weight: Optional, bias: Optional) -> Array:
    x = x if weight is None else x * weight.astype(x.dtype)
    return x if bias is None else x + bias.astype(x.dtype)


def _scale_channels(last: bool, x: Array, weight: Optional, bias: Optional) -> Array:
    weight, bias = (None if v is None else _per_channel(last, v, x) for v in (weight, bias))
    return _scale_and_shift(x, weight, bias)


def _per_channel(last: bool, values: Array, x: Array) -> Array:
    """Return one value per channel in a shape that broadcasts with ``x``."""
    return values.astype(x.dtype).reshape(-1, *((1,) * (0 if last else x.ndim - 2)))


def _positions(last: bool, x: Array) -> tuple[int, ...]:
    """Return the axes between the batch and the channels, or behind both."""
    return tuple(range(1, x.ndim - 1) if last else range(2, x.ndim))
