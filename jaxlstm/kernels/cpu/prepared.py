"""Weights that are packed once for many calls of the native kernel, and the calls that share its threads."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator, Mapping

import numpy as np

from jaxlstm._shared.aligned import aligned_zeros
from jaxlstm.kernels.cpu.library import DTYPE_NUMBERS, library
from jaxlstm.layer.precision import gate_dtype


def prepare(params: Mapping[str, np.ndarray]) -> np.ndarray:
    """Pack the parameters of one direction for the current instruction set.

    Half-precision weights that it cannot multiply are widened to float32.
    """
    loaded = library()
    assert loaded.handle is not None
    dtype = loaded.product_dtype(params["weight_hh"].dtype)
    wide = gate_dtype(dtype)
    arrays = {name: np.ascontiguousarray(leaf, dtype) for name, leaf in params.items() if "weight" in name}
    (gates, input_size), h_size = arrays["weight_ih"].shape, arrays["weight_hh"].shape[1]
    if "bias_ih" in params:
        arrays["bias"] = params["bias_ih"].astype(wide) + params["bias_hh"].astype(wide)
    sizes = [ctypes.c_int64(size) for size in (input_size, gates // 4, h_size)]
    number = DTYPE_NUMBERS[dtype.name]
    count = loaded.handle.jaxlstm_prepared_size(number, *sizes, "weight_hr" in arrays)
    prepared = aligned_zeros((count,), dtype)
    weights = (arrays.get(name) for name in ("weight_ih", "weight_hh", "bias", "weight_hr"))
    addresses = (*map(_address, weights), _address(prepared))
    loaded.handle.jaxlstm_prepare_weights(number, *sizes, *addresses)
    return prepared


@contextlib.contextmanager
def callers(count: int) -> Iterator[None]:
    """Announce ``count`` threads that call the kernel concurrently, each with its share of the cores.

    With many concurrent calls, one core per call is faster than all cores for each, because the threads of a
    call synchronize after each step.
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
