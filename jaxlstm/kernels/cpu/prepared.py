"""The native kernel for many calls with the same weights, which are packed once and not in each call."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.cell import LSTMState
from jaxlstm.kernels.cpu import ffi
from jaxlstm.kernels.cpu.library import library
from jaxlstm.kernels.cpu.memory import aligned_zeros


def prepare(params: Mapping[str, np.ndarray]) -> np.ndarray:
    """Weights and biases of one direction as the kernel's instruction set in force reads them.

    Args:
      params: ``weight_ih``, ``weight_hh`` and the optional ones, float32 or float64.
    """
    handle = library().handle
    assert handle is not None
    arrays = {name: np.ascontiguousarray(leaf) for name, leaf in params.items()}
    (gates, input_size), h_size = arrays["weight_ih"].shape, arrays["weight_hh"].shape[1]
    dtype = arrays["weight_hh"].dtype
    if "bias_ih" in arrays:
        arrays["bias"] = arrays["bias_ih"] + arrays["bias_hh"]
    sizes = [ctypes.c_int64(size) for size in (input_size, gates // 4, h_size)]
    wide = dtype == np.float64
    count = handle.jaxlstm_prepared_size(wide, *sizes, "weight_hr" in arrays)
    prepared = aligned_zeros((count,), dtype)
    weights = (arrays.get(name) for name in ("weight_ih", "weight_hh", "bias", "weight_hr"))
    handle.jaxlstm_prepare_weights(wide, *sizes, *map(_address, weights), _address(prepared))
    return prepared


def run(
    prepared: Any, inputs: Any, state: Any, lengths: Any = None, *, reverse: bool = False
) -> tuple[jax.Array, LSTMState]:
    """As :func:`jaxlstm.scan.run`, with what :func:`prepare` made of the params in their place.

    ``lengths`` are int32 (batch,), or None if every step is valid: a program that leaves XLA next to nothing
    to compute runs at once, on the thread that calls.
    """
    lengths = jnp.zeros(ffi.LEFT_OUT, jnp.int32) if lengths is None else lengths
    shapes = [jax.ShapeDtypeStruct((*inputs.shape[:2], state.h.shape[1]), inputs.dtype)]
    shapes += [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in state]
    call: Any = jax.ffi.ffi_call("jaxlstm_forward_prepared", shapes)
    threads = np.int64(ffi.THREADS)
    outputs, h, c = call(inputs, prepared, *state, lengths, reverse=reverse, threads=threads)
    return outputs, LSTMState(h, c)


@contextlib.contextmanager
def callers(count: int) -> Iterator[None]:
    """While this lasts, ``count`` threads call the kernel at the same time: each gets its share of the cores.

    Where calls are many, one core to each is faster than all to one, which have to meet after each step.
    """
    handle = library().handle
    assert handle is not None
    handle.jaxlstm_add_callers(count)
    try:
        yield
    finally:
        handle.jaxlstm_add_callers(-count)


def _address(array: np.ndarray | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if array is None else array.ctypes.data)
