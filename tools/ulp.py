"""Errors of the native kernel's sigmoid and tanh in ulp.

``python -m tools.ulp [instruction set]`` evaluates both at all 2^32 floats, which takes about ten minutes on
one core, and prints the largest error of each and its argument.
"""

from __future__ import annotations

import ctypes
import sys
from typing import NamedTuple

import numpy as np

from jaxlstm.kernels.cpu.library import DTYPE_NUMBERS, library

FLOATS = ctypes.POINTER(ctypes.c_float)
TINY = np.finfo(np.float32).tiny
BLOCK = 2**20


class WorstError(NamedTuple):
    """The largest error in ulp, and the argument where it occurs."""

    ulp: float
    x: float


def activations(x: np.ndarray, dtype: str = "float32") -> tuple[np.ndarray, np.ndarray]:
    """Return the kernel's sigmoid and tanh of a float32 array, as in a call of this dtype."""
    handle = library().handle
    assert handle is not None
    sigmoid, tanh = np.empty_like(x), np.empty_like(x)
    pointers = (array.ctypes.data_as(FLOATS) for array in (x, sigmoid, tanh))
    handle.jaxlstm_activations(DTYPE_NUMBERS[dtype], *pointers, ctypes.c_long(x.size))
    return sigmoid, tanh


def worst_error(x: np.ndarray, actual: np.ndarray, exact: np.ndarray) -> WorstError:
    """Return the largest error where the exact value is a normal float32.

    The kernel, like XLA, may flush subnormal results to zero.
    """
    spacing = np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)
    ulp = np.where(np.abs(exact) >= TINY, np.abs(actual - exact) / spacing, 0)
    index = int(ulp.argmax())
    return WorstError(float(ulp[index]), float(x[index]))


def errors_at(bits: np.ndarray) -> tuple[WorstError, WorstError]:
    """Return the worst errors of sigmoid and tanh at the floats with these bit patterns.

    NaN must map to NaN, and all other results must lie in the range of the function.
    """
    x = bits.view(np.float32)
    sigmoid, tanh = activations(x)
    is_nan = np.isnan(x)
    assert (np.isnan(sigmoid) == is_nan).all()
    assert (np.isnan(tanh) == is_nan).all()
    if is_nan.all():
        return WorstError(0.0, np.nan), WorstError(0.0, np.nan)
    if is_nan.any():
        x, sigmoid, tanh = x[~is_nan], sigmoid[~is_nan], tanh[~is_nan]
    assert (np.abs(tanh) <= 1).all()
    assert ((sigmoid >= 0) & (sigmoid <= 1)).all()
    wide = x.astype(np.float64)
    with np.errstate(over="ignore"):
        exact_sigmoid = 1 / (1 + np.exp(-wide))
    return worst_error(x, sigmoid, exact_sigmoid), worst_error(x, tanh, np.tanh(wide))


def main() -> None:
    """Print the worst errors of the given instruction set, or of the active one."""
    handle = library().handle
    assert handle is not None, library().reason
    if len(sys.argv) > 1 and not handle.jaxlstm_use_instruction_set(sys.argv[1].encode()):
        sys.exit(f"instruction set {sys.argv[1]!r} is not available in this build or on this processor")
    sigmoid = tanh = WorstError(0.0, 0.0)
    for start in range(0, 2**32, BLOCK):
        errors = errors_at(np.arange(start, start + BLOCK, dtype=np.uint32))
        sigmoid, tanh = max(sigmoid, errors[0]), max(tanh, errors[1])
    print(f"{library().instruction_set}: sigmoid {sigmoid.ulp:.3f} ulp at {sigmoid.x!r}, ", end="")
    print(f"tanh {tanh.ulp:.3f} ulp at {tanh.x!r}")


if __name__ == "__main__":
    main()
