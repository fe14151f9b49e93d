"""`Comparison` proves that the start of an axis depends only on the start of an axis of the operands.

A function is traced at two sizes of the axis. Array axes whose sizes differ between the two traces are the
*long* ones; other sizes, as behind a convolution, end the comparison.
Each operation must then keep this invariant: the start of every long axis, up to the size without padding,
depends only on the start of the long axes of the operands. Sums over a long axis break it, for example.
Numbers that depend on the size, as the divisor of a mean does, show as different literals. An operation
without a rule is taken to mix everything.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from math import prod
from typing import Any

import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

Long = dict[int, int]
"""Long axis of an array -> its size as a multiple of the free axis."""

PRIMES = ((13, 17), (7, 11), (3, 5), (31, 37), (127, 131), (509, 521), (2039, 2053))
"""Two sizes to try for the axis. Primes, because other sizes may be a multiple by accident."""

_SIZES = frozenset({"shape", "new_sizes", "limit_indices", "slice_sizes", "sharding"})
"""Parameters of operations that follow from the shapes of operands and results, or that a rule checks."""


class Comparison:
    """A function traced at two sizes of an axis.

    Args:
      sizes: one of `PRIMES`.
      is_time: the axis is the time of recurrent layers that get lengths. Otherwise it is their batch.
      rows: also require that the elements of the axis do not depend on each other, and not on their position.

    Attributes:
      differs: the two traces have different operations, so that other sizes may have equal ones.
    """

    def __init__(self, sizes: tuple[int, int], *, is_time: bool, rows: bool) -> None:
        self.sizes, self.is_time, self.rows = sizes, is_time, rows
        self.differs = False
        self._other: dict[Any, Any] = {}

    def long(self, first: Any, second: Any) -> Long | None:
        """Return the long axes of a value, or None if its shapes do not correspond."""
        if len(first.aval.shape) != len(second.aval.shape):
            return None
        found: Long = {}
        for place, (n, m) in enumerate(zip(first.aval.shape, second.aval.shape, strict=True)):
            if n != m:
                found[place] = n // self.sizes[0]
                if (n, m) != tuple(found[place] * size for size in self.sizes):
                    return None
        return found

    def closed(self, first: Any, second: Any) -> bool:
        """Return True if two jaxprs with their constants correspond and keep the invariant."""
        if isinstance(first, ClosedJaxpr):
            consts = zip(first.consts, second.consts, strict=False)
            if len(first.consts) != len(second.consts) or not all(itertools.starmap(self._starts, consts)):
                return False
            first, second = first.jaxpr, second.jaxpr
        if [eqn.primitive for eqn in first.eqns] != [eqn.primitive for eqn in second.eqns]:
            self.differs = True
            return False
        mine = [*first.constvars, *first.invars]
        self._other.update(zip(mine, [*second.constvars, *second.invars], strict=True))
        equations = zip(first.eqns, second.eqns, strict=True)
        return all(itertools.starmap(self._equation, equations)) and all(
            itertools.starmap(self._corresponds, zip(first.outvars, second.outvars, strict=True))
        )

    def _starts(self, first: Any, second: Any) -> bool:
        """Return True if two constants are equal, or the second one goes on where the first one ends."""
        if np.shape(first) != np.shape(second) and (self.rows or np.ndim(first) != np.ndim(second)):
            return False
        return first is second or np.array_equal(first, second[tuple(map(slice, np.shape(first)))])

    def _corresponds(self, first: Any, second: Any) -> bool:
        if isinstance(first, Literal):
            return isinstance(second, Literal) and np.array_equal(first.val, second.val, equal_nan=True)
        return self._other[first] is second

    def _equation(self, first: Any, second: Any) -> bool:
        counts = [(len(eqn.invars), len(eqn.outvars)) for eqn in (first, second)]
        if counts[0] != counts[1]:
            return False
        if not all(itertools.starmap(self._corresponds, zip(first.invars, second.invars, strict=True))):
            return False
        self._other.update(zip(first.outvars, second.outvars, strict=True))
        longs = [
            self.long(*pair)
            for pair in zip([*first.invars, *first.outvars], [*second.invars, *second.outvars], strict=True)
        ]
        inner = zip(_jaxprs(first.params), _jaxprs(second.params), strict=True)
        if None in longs or _plain(first.params) != _plain(second.params):
            return False
        ins, outs = longs[: len(first.invars)], longs[len(first.invars) :]
        name = first.primitive.name
        if first.params.get("name") == "recurrent_layer":
            return self._layer(*ins[:2])  # type: ignore[arg-type]
        if name in _CALLS:
            return all(itertools.starmap(self.closed, inner))
        if not any(longs) or name in _ALONG:
            return True
        if name == "iota" or name.startswith("cum"):
            place = first.params["dimension" if name == "iota" else "axis"]
            return place not in outs[0] or not (self.rows or first.params.get("reverse"))  # type: ignore[operator]
        prefixes = (prefix for prefix in ("reduce_window", "reduce", "arg") if name.startswith(prefix))
        name = next(prefixes, name)
        return name in _RULES and _RULES[name](first, ins, outs, self.rows)

    def _layer(self, x: Long, h: Long) -> bool:
        """Return True for a recurrent layer over rows, and for one over time that gets lengths."""
        if self.is_time:
            return not self.rows and not h and list(x.values()) == [1]
        return len(x) == len(h) <= 1


def _jaxprs(params: Mapping[str, Any]) -> Iterator[Any]:
    for value in params.values():
        items = value if isinstance(value, tuple | list) else (value,)
        yield from (item for item in items if isinstance(item, Jaxpr | ClosedJaxpr))


def _plain(params: Mapping[str, Any]) -> dict[str, str]:
    """Return the parameters that must be equal, as text: some hold arrays."""
    jaxprs = {id(item) for item in _jaxprs(params)}
    return {
        name: repr(value)
        for name, value in params.items()
        if name not in _SIZES and not callable(value) and id(value) not in jaxprs and name != "branches"
    }


def _dot(eqn: Any, ins: Any, outs: Any, rows: bool) -> bool:
    contracted, _ = eqn.params["dimension_numbers"]
    return not any(set(axes) & set(long) for axes, long in zip(contracted, ins, strict=True))


def _convolution(eqn: Any, ins: Any, outs: Any, rows: bool) -> bool:
    numbers = eqn.params["dimension_numbers"]
    batch = {numbers.lhs_spec[0]}, {numbers.out_spec[0]}
    return (set(ins[0]), set(outs[0])) == batch and not ins[1] and eqn.params["batch_group_count"] == 1


def _gather(eqn: Any, ins: Any, outs: Any, rows: bool) -> bool:
    """Rows of a table, or parts of arrays that are whole along the long axes or beside their indices."""
    numbers = eqn.params["dimension_numbers"]
    sizes = enumerate(zip(eqn.params["slice_sizes"], eqn.invars[0].aval.shape, strict=True))
    whole = {place for place, (part, size) in sizes if part == size} - {*numbers.start_index_map}
    return set(ins[0]) <= {*whole, *numbers.operand_batching_dims}


def _slice(eqn: Any, ins: Any, outs: Any, rows: bool) -> bool:
    """The start of a long axis, its first element, or the start of a table of the size of the axis."""
    starts, limits = eqn.params["start_indices"], eqn.params["limit_indices"]
    strides = eqn.params["strides"] or (1,) * len(starts)
    if rows:
        return ins[0] == outs[0]  # whole along the axis, because the starts and strides are equal
    starting = all(starts[place] == 0 and strides[place] == 1 for place in {*ins[0], *outs[0]})
    return starting and all(limits[place] == 1 for place in set(ins[0]) - set(outs[0]))


def _reshape(eqn: Any, ins: Any, outs: Any, rows: bool) -> bool:
    """The same number of parts, each of which starts with the same elements."""
    if len(ins[0]) != 1 or len(outs[0]) != 1 or eqn.params.get("dimensions") is not None:
        return False
    shapes = (eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape)
    places = (*ins[0], *outs[0])
    before, after = (prod(shape[:place]) for shape, place in zip(shapes, places, strict=True))
    return before == after


def _window(eqn: Any, ins: Any, outs: Any, rows: bool) -> bool:
    names = ("window_dimensions", "window_strides", "base_dilation", "window_dilation")
    steps = [eqn.params[name] for name in names if name in eqn.params]
    steps += [[1 + low + high for low, high in eqn.params["padding"]]]
    return all(numbers[place] == 1 for numbers in steps for long in ins for place in long)


def _not_along(name: str) -> Callable[..., bool]:
    """Return the rule of an operation along the axes in a parameter."""

    def rule(eqn: Any, ins: Any, outs: Any, rows: bool) -> bool:
        axes = eqn.params.get(name)
        return axes is not None and not any({*np.atleast_1d(axes)} & {*long} for long in ins)

    return rule


def _fft(eqn: Any, ins: Any, outs: Any, rows: bool) -> bool:
    transformed = len(eqn.invars[0].aval.shape) - len(eqn.params["fft_lengths"])
    return all(place < transformed for place in ins[0])


def _pad(eqn: Any, ins: Any, outs: Any, rows: bool) -> bool:
    return all(eqn.params["padding_config"][place] == (0, 0, 0) for place in ins[0])


def _whole(eqn: Any, ins: Any, outs: Any, rows: bool) -> bool:
    return ins[0] == outs[0]


_RULES: dict[str, Callable[..., bool]] = {
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
    "gather": _gather,
    "slice": _slice,
    "dynamic_slice": _whole,
    "tile": _whole,
    "reshape": _reshape,
    "pad": _pad,
    "fft": _fft,
    "reduce_window": _window,
    "reduce": _not_along("axes"),
    "arg": _not_along("axes"),
    "concatenate": _not_along("dimension"),
    "sort": _not_along("dimension"),
    "rev": _not_along("dimensions"),
    "split": _not_along("axis"),
}
_CALLS = {"jit", "pjit", "closed_call", "remat", "checkpoint", "scan", "while", "cond"}
_CALLS |= {"custom_jvp_call", "custom_vjp_call"}
_NAMES = """
    abs acos acosh add add_any and asin asinh atan atan2 atanh bitcast_convert_type broadcast_in_dim
    cbrt ceil clamp complex conj convert_element_type copy cos cosh digamma div eq erf erf_inv erfc exp
    exp2 expand_dims expm1 floor ge gt imag integer_pow is_finite le lgamma log log1p logistic lt max
    min mul ne neg nextafter not or pow real reduce_precision rem round rsqrt select_n shift_left
    shift_right_arithmetic shift_right_logical sign sin sinh sqrt square squeeze stack stop_gradient sub
    tan tanh transpose xor
"""
_ALONG = frozenset(_NAMES.split())
"""Operations whose results have each element from the same place along a long axis."""
