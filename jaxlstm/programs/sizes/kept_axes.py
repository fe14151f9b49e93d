"""``kept_axes``: the axes of the operands of a JAX operation along which it treats all elements apart."""

from collections.abc import Callable, Collection
from math import prod
from typing import Any

Kept = list[dict[int, int]]
"""For each operand, an axis that the operation keeps -> the axis of its results.

An element of a result depends only on the elements of the operand at its place on such an axis, in the same
way at all places. On an axis of the result that no axis of the operand became, all elements depend on the
same elements of the operand.
"""


def kept_axes(eqn: Any, size: Any, rows: bool) -> Kept | None:
    """Return the axes that an operation keeps, or None if it has no rule.

    Args:
      size: the size whose multiples a reshaped axis may have: its elements are groups of parts of a row.
      rows: False to also keep axes along which an element depends on the elements before it.
    """
    name = eqn.primitive.name
    is_barrier = name == "optimization_barrier" and len(eqn.invars) == 1
    if is_barrier or name in _ALIGNED or name.startswith(("cum", "reduce_window")):
        return _aligned(eqn, name, rows)
    if name.startswith(("reduce", "arg")) or name == "squeeze":
        return _without_axes(eqn)
    return _RULES[name](eqn, size) if name in _RULES else None


def _shape(atom: Any) -> tuple[Any, ...]:
    return atom.aval.shape


def _aligned(eqn: Any, name: str, rows: bool) -> Kept:
    """Keep the axes with the size of the result, where the same axis of it is at the same place.

    An operand of one element along an axis, or without axes, is the same for all elements of the result.
    """
    result_shape, params = _shape(eqn.outvars[0]), eqn.params
    changed = _changed(eqn, name, rows)
    kept = [
        {a: a for a, n in enumerate(_shape(operand)) if n == result_shape[a] and a not in changed}
        if len(_shape(operand)) == len(result_shape)
        else {}
        for operand in eqn.invars
    ]
    if name == "slice" and not rows:
        strides = params["strides"] or (1,) * len(result_shape)
        pairs = enumerate(zip(params["start_indices"], strides, strict=True))
        kept[0] |= {a: a for a, pair in pairs if pair == (0, 1)}
    return kept


def _changed(eqn: Any, name: str, rows: bool) -> Collection[int]:
    """Return the axes along which an operation with aligned axes does not treat elements apart."""
    params, rank = eqn.params, len(_shape(eqn.outvars[0]))
    if name == "pad":
        return [a for a, config in enumerate(params["padding_config"]) if config != (0, 0, 0)]
    if name == "fft":
        return range(rank - len(params["fft_lengths"]), rank)
    if name.startswith("reduce_window"):
        names = ("window_dimensions", "window_strides", "base_dilation", "window_dilation")
        steps = [params[name] for name in names if name in params]
        is_moved = [
            any(pair) or any(step[a] != 1 for step in steps) for a, pair in enumerate(params["padding"])
        ]
        return [a for a in range(rank) if is_moved[a]]
    if name.startswith("cum") and not (rows or params["reverse"]):
        return ()
    changed = next((params[name] for name in ("axis", "dimension", "dimensions") if name in params), ())
    return changed if isinstance(changed, tuple | list) else (changed,)


def _without_axes(eqn: Any) -> Kept:
    axes = eqn.params["axes"] if "axes" in eqn.params else eqn.params["dimensions"]
    rank = len(_shape(eqn.invars[0]))
    remaining = [axis for axis in range(rank) if axis not in axes]
    kept = {axis: place for place, axis in enumerate(remaining)}
    return [kept if len(_shape(operand)) == rank else {} for operand in eqn.invars]


def _broadcast(eqn: Any, size: Any) -> Kept:
    before, after = _shape(eqn.invars[0]), _shape(eqn.outvars[0])
    places = enumerate(eqn.params["broadcast_dimensions"])
    return [{axis: place for axis, place in places if before[axis] == after[place]}]


def _reshape(eqn: Any, size: Any) -> Kept:
    """Keep an axis before which there are as many elements, with its size or another multiple of ``size``."""
    before, after = _shape(eqn.invars[0]), _shape(eqn.outvars[0])
    if eqn.params.get("dimensions") is not None or len(eqn.invars) > 1:
        return [{} for _ in eqn.invars]
    places = {prod(after[:place]): place for place, n in enumerate(after) if n != 1}
    kept = {}
    for axis, n in enumerate(before):
        place = places.get(prod(before[:axis])) if n != 1 else None
        if place is not None and (n == after[place] or n % size == 0 == after[place] % size):
            kept[axis] = place
    return [kept]


def _dot(eqn: Any, size: Any) -> Kept:
    contracted, batches = eqn.params["dimension_numbers"]
    kept, place = [], len(batches[0])
    for operand, summed, batch in zip(eqn.invars, contracted, batches, strict=True):
        free = [axis for axis in range(len(_shape(operand))) if axis not in (*summed, *batch)]
        kept.append(
            {axis: k for k, axis in enumerate(batch)} | {axis: place + k for k, axis in enumerate(free)}
        )
        place += len(free)
    return kept


def _convolution(eqn: Any, size: Any) -> Kept:
    numbers = eqn.params["dimension_numbers"]
    is_plain = eqn.params["batch_group_count"] == 1
    return [{numbers.lhs_spec[0]: numbers.out_spec[0]} if is_plain else {}, {}]


def _gather(eqn: Any, size: Any) -> Kept:
    """Keep axes of which each part is whole, the axes of the indices, and axes beside them."""
    numbers, parts = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    table, indices = map(_shape, eqn.invars)
    batching = dict(zip(numbers.start_indices_batching_dims, numbers.operand_batching_dims, strict=True))
    dropped = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    windows = [axis for axis in range(len(table)) if axis not in dropped]
    table_axes = {
        axis: place
        for axis, place in zip(windows, numbers.offset_dims, strict=True)
        if parts[axis] == table[axis] and axis not in numbers.start_index_map
    }
    places = [axis for axis in range(len(_shape(eqn.outvars[0]))) if axis not in numbers.offset_dims]
    index_axes = dict(zip(range(len(indices) - 1), places, strict=True))
    return [table_axes | {axis: index_axes[k] for k, axis in batching.items()}, index_axes]


def _scatter(eqn: Any, size: Any) -> Kept:
    """Keep axes of which each written part is whole."""
    numbers = eqn.params["dimension_numbers"]
    table, _, parts = map(_shape, eqn.invars)
    dropped = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
    windows = (axis for axis in range(len(table)) if axis not in dropped)
    pairs = zip(windows, numbers.update_window_dims, strict=True)
    moved = numbers.scatter_dims_to_operand_dims
    whole = {part: axis for axis, part in pairs if table[axis] == parts[part] and axis not in moved}
    return [{axis: axis for axis in whole.values()}, {}, whole]


def _transpose(eqn: Any, size: Any) -> Kept:
    return [{axis: place for place, axis in enumerate(eqn.params["permutation"])}]


def _stack(eqn: Any, size: Any) -> Kept:
    new = eqn.params["axis"]
    return [{axis: axis + (axis >= new) for axis in range(len(_shape(operand)))} for operand in eqn.invars]


_RULES: dict[str, Callable[[Any, Any], Kept]] = {
    "broadcast_in_dim": _broadcast,
    "conv_general_dilated": _convolution,
    "dot_general": _dot,
    "gather": _gather,
    "iota": lambda eqn, size: [],
    "reshape": _reshape,
    **dict.fromkeys(("scatter", *(f"scatter-{name}" for name in ("add", "mul", "min", "max"))), _scatter),
    "stack": _stack,
    "transpose": _transpose,
}
_NAMES = """
    abs acos acosh add add_any and asin asinh atan atan2 atanh bitcast_convert_type cbrt ceil clamp
    complex conj convert_element_type copy cos cosh digamma div eq erf erf_inv erfc exp exp2 expm1 floor
    ge gt imag integer_pow is_finite le lgamma log log1p logistic lt max min mul ne neg nextafter not or
    pow real reduce_precision rem round rsqrt select_n shift_left shift_right_arithmetic
    shift_right_logical sign sin sinh sqrt square stop_gradient sub tan tanh xor
"""
_ALIGNED = frozenset(_NAMES.split()) | {"concatenate", "dynamic_slice", "fft", "pad", "rev", "slice", "sort"}
_ALIGNED |= {"split", "tile", "top_k"}
