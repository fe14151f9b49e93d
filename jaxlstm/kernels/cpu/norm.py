"""Layer, group and instance norms by the native CPU kernel, for inference. They have no derivative."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.kernels.cpu.library import library

THREADS = 0
"""Number of threads per call; 0 means the size of XLA's thread pool."""


def takes_norm(x: jax.Array) -> bool:
    """Return True if the kernel normalizes this array."""
    is_known = not any(map(jax.export.is_symbolic_dim, x.shape))  # A proof has symbols for sizes.
    return library().handle is not None and x.dtype == np.float32 and is_known and x.size > 0


def normalize(x: jax.Array, place: int, groups: int, weight: Any, bias: Any, eps: float) -> jax.Array:
    """Return ``(x - mean) / sqrt(variance + eps) * weight + bias`` in float32.

    Args:
      x: images, with the batch in the first axis.
      place: the axis of the channels: the second or the last one.
      groups: a mean and a variance belong to so many groups of channels, with all their positions.
      weight: (channels,) or None.
      bias: (channels,) or None.
    """
    sizes = np.prod(x.shape[1:place], dtype=int), x.shape[place], np.prod(x.shape[place + 1 :], dtype=int)
    images = x.reshape(len(x), *map(int, sizes))
    absent = jnp.zeros(0, x.dtype)
    operands = [absent if value is None else value.astype(x.dtype) for value in (weight, bias)]
    call = jax.ffi.ffi_call("jaxlstm_normalize", jax.ShapeDtypeStruct(images.shape, x.dtype))
    settings: Any = {"groups": np.int64(groups), "eps": np.float64(eps)}
    return call(images, *operands, reverse=False, threads=np.int64(THREADS), **settings).reshape(x.shape)
