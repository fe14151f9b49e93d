"""Convolutions with the channels last by the native CPU kernel, with bias and activation, for inference.

They have no derivative and no batching rule: a program that is compiled for inference needs neither.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxlstm.kernels.cpu.library import library
from jaxlstm.layer.convolution import Geometry

ACTIVATIONS = ("none", "relu", "relu6", "hardswish", "silu")
"""The activations of the kernel, in the order of ``Activation`` in arguments.h."""

THREADS = 0
"""Number of threads per call; 0 means the size of XLA's thread pool."""

_PANEL = 4
"""The number of vectors of outputs in a panel, see panel.h."""


def takes_convolution(x: jax.Array, weight: jax.Array, geometry: Geometry, groups: int) -> bool:
    """Return True if the kernel computes this convolution; see :func:`convolve` for the arguments."""
    outputs, each, *kernel = weight.shape
    return (
        library().handle is not None
        and len(kernel) in (1, 2)
        and x.dtype == weight.dtype == np.float32
        and (each > 1 or groups == outputs > 1 or groups == 1 < outputs)
        and min(*x.shape, *geometry.counts(x.shape[1:-1], kernel)) > 0
    )


def convolve(
    x: jax.Array,
    weight: Any,
    shape: Sequence[int],
    bias: Any,
    geometry: Geometry,
    groups: int,
    activation: str,
    gate: jax.Array | None = None,
    residual: jax.Array | None = None,
) -> jax.Array:
    """Convolve images (N, *size, C) with a weight (O, C / groups, *kernel) in float32.

    Args:
      x: the images; size has one or two axes.
      weight: the weight as :func:`packed` returns it.
      bias: (O,).
      activation: one of ACTIVATIONS.
      gate: (N, C), factors of the images, for one group.
      residual: added before the activation, with the shape of the result.
    """
    outputs, _, *kernel = shape
    counts = tuple(geometry.counts(x.shape[1:-1], kernel))
    images, shape = x, (x.shape[0], *counts, outputs)
    if prod(kernel) == prod(geometry.stride) == 1 and counts == x.shape[1:-1]:
        # One long row, which the kernel divides into full blocks.
        images = x.reshape(1 if gate is None else len(x), -1, x.shape[-1])
        counts = images.shape[1:-1]
        kernel, geometry = [1], Geometry((1,), ((0, 0),), (1,))
    if len(kernel) == 1:
        images, counts, kernel = images[:, None], (1, *counts), [1, *kernel]
        geometry = Geometry((1, *geometry.stride), ((0, 0), *geometry.pads), (1, *geometry.dilation))
    starts = [before for before, _ in geometry.pads]
    numbers = [*kernel, *geometry.stride, *starts, *geometry.dilation, groups, ACTIVATIONS.index(activation)]
    result = jax.ShapeDtypeStruct((images.shape[0], *counts, outputs), x.dtype)
    attributes: Any = {"reverse": False, "threads": np.int64(THREADS)}
    attributes["geometry"] = np.array(numbers, np.int64)
    absent = jnp.zeros(0, x.dtype)
    others = absent if gate is None else gate, absent if residual is None else residual.reshape(result.shape)
    y = jax.ffi.ffi_call("jaxlstm_convolve", result)(images, weight, bias, *others, **attributes)
    return y.reshape(shape)


def packed(weight: Any, groups: int) -> Any:
    """Return a weight (O, C / groups, *kernel) in the order of the kernel, as one axis.

    For each group, panels of :data:`_PANEL` vectors of outputs follow each other, each of shape (elements of
    a window, outputs). The last panel has zeros up to a full vector. A depthwise weight is
    (elements, channels).
    """
    xp: Any = jnp if isinstance(weight, Tracer) else np
    outputs, each, *kernel = weight.shape
    if groups == outputs and each == 1:
        return xp.reshape(weight, (outputs, -1)).T.reshape(-1)
    handle = library().handle
    assert handle is not None
    lanes = handle.jaxlstm_float_lanes()
    columns = xp.moveaxis(xp.reshape(weight, (groups, outputs // groups, each, prod(kernel))), (1, 2), (3, 2))
    columns = columns.reshape(groups, prod(kernel) * each, -1)
    columns = xp.pad(columns, ((0, 0), (0, 0), (0, -columns.shape[-1] % lanes)))
    starts = list(range(_PANEL * lanes, columns.shape[-1], _PANEL * lanes))
    panels = xp.split(columns, starts, -1)
    return xp.concatenate([panel.reshape(groups, -1) for panel in panels], 1).reshape(-1)
