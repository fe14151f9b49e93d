"""sigmoid and tanh of the native kernel, in ulp of the truth.

``python -m tests.kernels.ulp [instruction set]`` goes through all 2^32 floats, some ten minutes on one core,
and prints the worst of each and where it is.
"""

from __future__ import annotations

import ctypes
import sys
from typing import NamedTuple

import numpy as np

from jaxlstm.kernels.cpu.library import library

FLOATS = ctypes.POINTER(ctypes.c_float)
TINY = np.finfo(np.float32).tiny
BLOCK = 2**20


class Worst(NamedTuple):
    """The largest error in ulp, and the argument."""

    ulp: float
    x: float


def activations(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """sigmoid and tanh of float32."""
    handle = library().handle
    assert handle is not None
    sigmoid, tanh = np.empty_like(x), np.empty_like(x)
    handle.jaxlstm_activations(
        *(array.ctypes.data_as(FLOATS) for array in (x, sigmoid, tanh)), ctypes.c_long(x.size)
    )
    return sigmoid, tanh


def worst(x: np.ndarray, actual: np.ndarray, exact: np.ndarray) -> Worst:
    """Where the truth is a normal float32; below, results may be zero, as XLA's are."""
    spacing = np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)
    ulp = np.where(np.abs(exact) >= TINY, np.abs(actual - exact) / spacing, 0)
    at = int(ulp.argmax())
    return Worst(float(ulp[at]), float(x[at]))


def of_bits(bits: np.ndarray) -> tuple[Worst, Worst]:
    """The worst of sigmoid and of tanh; NaN must stay NaN, and the range be kept."""
    x = bits.view(np.float32)
    sigmoid, tanh = activations(x)
    unknown = np.isnan(x)
    assert (np.isnan(sigmoid) == unknown).all()
    assert (np.isnan(tanh) == unknown).all()
    if unknown.all():
        return Worst(0.0, np.nan), Worst(0.0, np.nan)
    known = slice(None) if not unknown.any() else ~unknown
    x, sigmoid, tanh = x[known], sigmoid[known], tanh[known]
    assert (np.abs(tanh) <= 1).all()
    assert ((sigmoid >= 0) & (sigmoid <= 1)).all()
    exact = x.astype(np.float64)
    with np.errstate(over="ignore"):
        truth = 1 / (1 + np.exp(-exact))
    return worst(x, sigmoid, truth), worst(x, tanh, np.tanh(exact))


def main() -> None:
    """All floats, by the instruction set that is named, or the one in force."""
    handle = library().handle
    assert handle is not None, library().reason
    if len(sys.argv) > 1 and not handle.jaxlstm_use_instruction_set(sys.argv[1].encode()):
        sys.exit(f"this processor or build has no {sys.argv[1]}")
    sigmoid = tanh = Worst(0.0, 0.0)
    for start in range(0, 2**32, BLOCK):
        found = of_bits(np.arange(start, start + BLOCK, dtype=np.uint32))
        sigmoid, tanh = max(sigmoid, found[0]), max(tanh, found[1])
    print(f"{library().instruction_set}: sigmoid {sigmoid.ulp:.3f} ulp at {sigmoid.x!r}, ", end="")
    print(f"tanh {tanh.ulp:.3f} ulp at {tanh.x!r}")


if __name__ == "__main__":
    main()
