"""``compare``: how far two arrays or trees are apart, where, and how far was allowed."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import jax
import ml_dtypes
import numpy as np

from jaxlstm.check.report import Item, Report, number

Array = np.ndarray

# Those of torch.testing.assert_close: (rtol, atol).
TOLERANCES = {
    "float16": (1e-3, 1e-5),
    "bfloat16": (1.6e-2, 1e-5),
    "float32": (1.3e-6, 1e-5),
    "float64": (1e-7, 1e-7),
}


@dataclass(frozen=True)
class Worst:
    """The largest error of one kind: its value, its index, and the absolute error allowed there."""

    value: float
    index: tuple[int, ...]
    allowed: float


@dataclass(frozen=True)
class Difference:
    """How two arrays of one shape differ.

    ``mismatched`` of ``total`` elements are further apart than atol + rtol * abs(expected). Relative
    errors are to the expected value; an ulp is the distance of two neighbours at the expected value, in
    the coarser of the two dtypes. The three are None for empty arrays.
    """

    mismatched: int
    total: int
    absolute: Worst | None = None
    relative: Worst | None = None
    ulp: Worst | None = None

    def __str__(self) -> str:
        if self.absolute is None or self.relative is None or self.ulp is None:
            return "empty"
        share = (
            f"{self.mismatched} of {self.total} ({100 * self.mismatched / self.total:.3g} %) differ"
        )
        parts = [
            f"{name} {number(worst.value)} at {worst.index} ({number(worst.allowed)} allowed)"
            for name, worst in (
                ("absolute", self.absolute),
                ("relative", self.relative),
                ("ulp", self.ulp),
            )
        ]
        return f"{share}; worst {', '.join(parts)}"


def difference(
    actual: Array, expected: Array, *, rtol: float, atol: float, equal_nan: bool = False
) -> Difference:
    """Measure two arrays of one shape against a tolerance."""
    if actual.size == 0:
        return Difference(0, 0)
    coarser = min((actual.dtype, expected.dtype), key=_bits_of_precision)
    a, e = actual.astype(np.float64), expected.astype(np.float64)
    integers = not (_is_float(actual.dtype) or _is_float(expected.dtype))
    agree = actual == expected if integers else a == e  # large integers are not exact in float64
    if equal_nan:
        agree = agree | (np.isnan(a) & np.isnan(e))
    with np.errstate(all="ignore"):
        error = np.maximum(np.abs(a - e), 1.0) if integers else np.abs(a - e)
        error = np.where(agree, 0.0, np.where(np.isnan(error), np.inf, error))
        allowed = atol + rtol * np.abs(e)
        allowed = np.where(np.isfinite(allowed), allowed, 0.0)  # an infinite value must be met
        relative = np.where(agree, 0.0, error / np.abs(e))
        relative = np.where(np.isnan(relative), np.inf, relative)
        ulp = np.where(agree, 0.0, error / _ulp(e, coarser))
        ulp = np.where(np.isnan(ulp), np.inf, ulp)

    def worst(values: Array) -> Worst:
        index = np.unravel_index(int(np.argmax(values)), values.shape)
        return Worst(float(values[index]), tuple(int(k) for k in index), float(allowed[index]))

    mismatched = int(np.count_nonzero(error > allowed))
    return Difference(mismatched, error.size, worst(error), worst(relative), worst(ulp))


def compare(
    actual: Any,
    expected: Any,
    *,
    rtol: float | None = None,
    atol: float | None = None,
    equal_nan: bool = False,
    check_dtype: bool = True,
) -> Report:
    """Compare two arrays, or two trees of arrays leaf by leaf.

    Args:
      actual: an array (NumPy, JAX or torch), a number, or a tree of them that JAX knows.
      expected: the same, of the same structure.
      rtol, atol: two elements agree if abs(actual - expected) <= atol + rtol * abs(expected). Both, or
        neither: then those of ``torch.testing.assert_close`` for the coarser of the two dtypes, and
        equality for integers and bools.
      equal_nan: NaN agrees with NaN.
      check_dtype: a leaf of another dtype is a failure, and its values are still compared.

    Returns:
      A report with one item a leaf: how many elements differ, the worst absolute, relative and ulp
      error, each with its index and the allowance there, and the path of the leaf as its name.

    Raises:
      ValueError: one tolerance without the other, or a negative one.
      TypeError: a leaf that is not an array of real numbers.
    """
    require_tolerances(rtol, atol)
    ours, theirs = _leaves("actual", actual), _leaves("expected", expected)
    items = []
    for path in dict.fromkeys([*theirs, *ours]):
        if path not in ours or path not in theirs:
            where, other = ("expected", "actual") if path in theirs else ("actual", "expected")
            items.append(Item(path, False, detail=f"is in {where} but not in {other}"))
        else:
            items.append(
                _compare_leaf(path, ours[path], theirs[path], rtol, atol, equal_nan, check_dtype)
            )
    set_by = "torch.testing's, by dtype" if rtol is None else "set by the caller"
    return Report(
        "compare",
        tuple(items),
        notes=(f"tolerances: {set_by}",),
        settings={"rtol": rtol, "atol": atol, "equal_nan": equal_nan, "check_dtype": check_dtype},
    )


def _compare_leaf(
    path: str,
    actual: Array,
    expected: Array,
    rtol: float | None,
    atol: float | None,
    equal_nan: bool,
    check_dtype: bool,
) -> Item:
    if actual.shape != expected.shape:
        return Item(path, False, detail=f"has shape {actual.shape}, wanted {expected.shape}")
    if rtol is None or atol is None:
        coarser = min((actual.dtype, expected.dtype), key=_bits_of_precision)
        rtol, atol = TOLERANCES.get(coarser.name, (0.0, 0.0))
    found = difference(actual, expected, rtol=rtol, atol=atol, equal_nan=equal_nan)
    same_dtype = actual.dtype == expected.dtype or not check_dtype
    detail = str(found)
    if not same_dtype:
        detail = f"has dtype {actual.dtype}, wanted {expected.dtype}; {detail}"
    return Item(
        path,
        found.mismatched == 0 and same_dtype,
        measured=None if found.absolute is None else found.absolute.value,
        limit=None if found.absolute is None else found.absolute.allowed,
        detail=detail,
        data=asdict(found),
    )


def require_numbers(name: str, value: Any) -> Array:
    """``value`` as a NumPy array of real numbers; bfloat16 and torch's tensors included."""
    if hasattr(value, "detach"):  # a torch tensor, without importing torch
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":
            value = value.float().numpy().astype(ml_dtypes.bfloat16)
    array = np.asarray(value)
    if array.dtype.kind not in "fiub" and not jax.numpy.issubdtype(array.dtype, np.floating):
        raise TypeError(
            f"{name} must be an array of real numbers, got {type(value).__name__} of dtype {array.dtype}"
        )
    return array


def _leaves(name: str, tree: Any) -> dict[str, Array]:
    found, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path) or "array": require_numbers(
            f"{name}{jax.tree_util.keystr(path)}", leaf
        )
        for path, leaf in found
    }


def require_tolerances(rtol: float | None, atol: float | None) -> None:
    """Raise ValueError for one tolerance without the other, and for one that is no distance."""
    if (rtol is None) != (atol is None):
        given, missing = ("rtol", "atol") if atol is None else ("atol", "rtol")
        raise ValueError(f"{given} was given without {missing}; give both, or neither")
    for name, value in (("rtol", rtol), ("atol", atol)):
        if value is not None and not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be zero or more, and finite; got {value}")


def _bits_of_precision(dtype: np.dtype) -> int:
    """Bits of a float's mantissa; integers and bools are exact, hence finer than any float."""
    return ml_dtypes.finfo(dtype).nmant if _is_float(dtype) else 1_000


def _is_float(dtype: np.dtype) -> bool:
    return bool(jax.numpy.issubdtype(dtype, np.floating))


def _ulp(values: Array, dtype: np.dtype) -> Array:
    """The distance of neighbours in ``dtype`` at each value; 1 for integers."""
    if not _is_float(dtype):
        return np.ones_like(values)
    info = ml_dtypes.finfo(dtype)
    _, exponent = np.frexp(np.abs(values))
    exponent = np.maximum(exponent - 1, int(info.minexp))
    return np.ldexp(1.0, exponent - int(info.nmant))
