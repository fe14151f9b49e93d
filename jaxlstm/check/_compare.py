"""``compare``: the difference of two arrays or two trees of arrays."""

from dataclasses import asdict
from typing import Any

import jax

from jaxlstm.check.criteria.difference import Array, array_difference, default_tolerance
from jaxlstm.check.report.item import Item
from jaxlstm.check.report.report import Report
from jaxlstm.check.requirements import require_numbers, require_tolerance


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
      actual: an array (NumPy, JAX or torch), a number, or a pytree of them.
      expected: the same, of the same structure. Named tuples, such as LSTMState, count as tuples.
      rtol, atol: two elements agree if abs(actual - expected) <= atol + rtol * abs(expected). Give both or
        neither. Defaults: the tolerances of ``torch.testing.assert_close`` for the coarser of the two dtypes;
        integers and bools must be equal.
      equal_nan: if true, NaN equals NaN.
      check_dtype: if true, leaves of different dtypes fail. Their values are compared in any case.

    Returns:
      A report with one item for each leaf, named by its path. The detail gives the number of elements that
      differ and the worst absolute and relative error, each with its index and the absolute error allowed
      there.

    Raises:
      ValueError: if only one tolerance is given, or a tolerance is negative.
      TypeError: if a leaf is not an array of real numbers.

    >>> jaxlstm.check.compare(jnp.ones(3), np.ones(3, np.float32)).ok
    True
    """
    tolerance = require_tolerance(rtol, atol)
    ours, theirs = _leaves("actual", actual), _leaves("expected", expected)
    items = []
    for path in dict.fromkeys([*theirs, *ours]):
        if path not in ours or path not in theirs:
            present, absent = ("expected", "actual") if path in theirs else ("actual", "expected")
            items.append(Item(path, False, detail=f"is in {present} but not in {absent}"))
        else:
            items.append(_compare_leaf(path, ours[path], theirs[path], tolerance, equal_nan, check_dtype))
    source = "torch.testing.assert_close, by dtype" if tolerance is None else "the caller"
    return Report(
        "compare",
        tuple(items),
        notes=(f"tolerances from {source}",),
        settings={"rtol": rtol, "atol": atol, "equal_nan": equal_nan, "check_dtype": check_dtype},
    )


def _compare_leaf(
    path: str,
    actual: Array,
    expected: Array,
    tolerance: tuple[float, float] | None,
    equal_nan: bool,
    check_dtype: bool,
) -> Item:
    if actual.shape != expected.shape:
        return Item(path, False, detail=f"has shape {actual.shape}, expected {expected.shape}")
    rtol, atol = tolerance or default_tolerance(actual, expected)
    difference = array_difference(actual, expected, rtol=rtol, atol=atol, equal_nan=equal_nan)
    same_dtype = actual.dtype == expected.dtype or not check_dtype
    detail = str(difference)
    if not same_dtype:
        detail = f"has dtype {actual.dtype}, expected {expected.dtype}; {detail}"
    largest = difference.absolute
    return Item(
        path,
        difference.mismatched == 0 and same_dtype,
        measured=None if largest is None else largest.value,
        limit=None if largest is None else largest.allowed,
        detail=detail,
        data=asdict(difference),
    )


def _leaves(name: str, tree: Any) -> dict[str, Array]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(_with_plain_tuples(tree))
    paths = [(jax.tree_util.keystr(path), leaf) for path, leaf in leaves]
    return {path or "array": require_numbers(f"{name}{path}", leaf) for path, leaf in paths}


def _with_plain_tuples(tree: Any) -> Any:
    """Replace named tuples by tuples, so that the state (h, c) has the same paths here and in torch."""

    def is_named(node: Any) -> bool:
        return isinstance(node, tuple) and hasattr(node, "_fields")

    def plain(node: Any) -> Any:
        return tuple(map(_with_plain_tuples, node)) if is_named(node) else node

    return jax.tree.map(plain, tree, is_leaf=is_named)
