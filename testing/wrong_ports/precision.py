"""Products, weights or states rounded to too few bits."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from testing.wrong_ports.part import Array, Part

BUGS: dict[str, str | None] = {
    "tf32": "the matrix products run in TF32",
    "bfloat16 products": "the matrix products take bfloat16 operands",
    "bfloat16 weights": "the weights are rounded to bfloat16",
    "float16 weights": "the weights are rounded to float16",
    "bfloat16 c": "c is kept in bfloat16",
    "float32 inside": "float64 inputs are cast to float32",
}


def bfloat16(a: Array) -> Array:
    return a.astype(ml_dtypes.bfloat16).astype(a.dtype)


def tf32(a: Array) -> Array:
    """Round to ten bits of mantissa by scaling."""
    mantissa, exponent = np.frexp(a.astype(np.float64))
    return np.ldexp(np.rint(mantissa * 2**11), exponent - 11).astype(a.dtype)


class Precision(Part):
    """Matrix products, and the rounding of their operands."""

    def product(self, x: Array, kernel: Array) -> Array:
        if "tf32" in self.bugs:
            return tf32(x) @ tf32(kernel)
        if "bfloat16 products" in self.bugs:
            return bfloat16(x) @ bfloat16(kernel)
        return x @ kernel

    def rounded(self, w: dict[str, Array]) -> dict[str, Array]:
        """Return the weights as this port stores them."""
        for kind in ("bfloat16", "float16"):
            if f"{kind} weights" in self.bugs:
                w = {name: a.astype(np.dtype(kind)).astype(a.dtype) for name, a in w.items()}
        return w
