"""Arrays with axes whose size ``jit`` does not know, such as ``x[mask]``: `Prefix`.

The array is as long as the mask: its first elements along the axis are torch's, and the others repeat the
first one, so that functions are defined for them. An operator runs on all elements if the start of its
results provably depends on the start of its arguments only, by the rules of `flow`.

A packed batch is one too, whose other elements are steps after the longest sequence. An operator without a
proof then takes all of them, and the run asserts that the longest sequence is as long as its padding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
from jax import Array

from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.operators.indexing import if_valid, take
from jaxlstm.programs.sizes.flow import Axes, Flow
from jaxlstm.programs.sizes.guards import UNDECIDED

Apply = Callable[..., Any]
"""The function of a node, with the arguments of its operator.

Further keywords are ``opaque=True``, for a trace by which its result is proven, and ``seq_lengths``, the
lengths of the sequences of a recurrent layer."""


SIZE_OF = "size of "
"""Prefix of the keys under which a run records whether a value has the size that the graph asserts."""


class UnprovenError(Exception):
    """The result of an operator may depend on elements after the end of an axis."""


@dataclass(frozen=True)
class Count:
    """A size that ``jit`` does not know: ``times * value``, in an array with ``times * size`` elements.

    Attributes:
      is_packed: it is the length of the longest sequence of a packed batch, or follows from it.
      at_whole: the value for a batch that is as long as its padding; None if it is ``size``.
      possible: the values that it may have; () for all from 0 to ``size``.
    """

    value: Array
    size: int
    times: int = 1
    is_packed: bool = False
    at_whole: int | None = None
    possible: tuple[int, ...] = ()

    @property
    def whole(self) -> int:
        """The value for a batch that is as long as its padding."""
        return self.size if self.at_whole is None else self.at_whole

    def number(self) -> Array:
        """Return the size in torch."""
        return self.times * self.value


@dataclass(frozen=True)
class Prefix:
    """An array whose size along an axis, or along several, is a `Count`.

    Attributes:
      is_padded: its other elements are what torch computes for padding after the longest sequence.
    """

    array: Array
    axes: tuple[int, ...]
    count: Count
    is_padded: bool = False

    @property
    def axis(self) -> int:
        """The only axis of unknown size. Raises UnprovenError if there are several."""
        axis, *others = self.axes
        if others:
            raise UnprovenError
        return axis

    def valid(self, axis: int | None = None) -> Array:
        """Return True for each element of the axis that torch has, with the number of axes of the array."""
        axis = self.axis if axis is None else axis
        places = jnp.arange(self.array.shape[axis]) < self.count.number()
        return places.reshape(-1, *(1,) * (self.array.ndim - 1 - axis))

    def repeated(self) -> Prefix:
        """Return the same array, in which the first element replaces the elements that torch lacks."""
        array = self.array
        for axis in self.axes:
            first = jax.lax.slice_in_dim(array, 0, min(array.shape[axis], 1), axis=axis)
            array = jnp.where(self.valid(axis), array, first)
        return replace(self, array=array)

    def places(self, index: Array, axis: int | None = None) -> Array:
        """Return indices of the axis, out of range where torch has no element."""
        size = self.array.shape[self.axis if axis is None else axis]
        return jnp.where((index >= 0) & (index < self.count.number()), index, size)

    def filled(self) -> Array:
        """Return the array, in which NaN or the smallest number replaces the elements that torch lacks."""
        array = self.array
        for axis in self.axes:
            array = take(array, self.places(jnp.arange(array.shape[axis]), axis), axis)
        return array

    def whole(self) -> Array:
        """Return the array of a batch that is as long as its padding."""
        size = max(self.count.whole * self.count.times, 0)
        return self.array[
            tuple(slice(size if place in self.axes else None) for place in range(self.array.ndim))
        ]

    def unless_empty(self, result: Any) -> Any:
        """Return a result, with NaN or the smallest number if torch fails because it has no element."""

        def known(leaf: Any) -> Any:
            array = if_valid(array_of(leaf), self.count.number() > 0)
            return replace(leaf, array=array) if isinstance(leaf, Prefix) else array

        return jax.tree.map(known, result, is_leaf=is_unknown)

    def at_size(self, size: int) -> Array:
        """Return the array with the size that the graph asserts; NaN if it is another."""
        places, array = jnp.where(self.count.number() == size, jnp.arange(size), -1), self.array
        for axis in self.axes:
            array = take(array, places, axis)
        return array


jax.tree_util.register_dataclass(Count, ["value"], ["size", "times", "is_packed", "at_whole", "possible"])
jax.tree_util.register_dataclass(Prefix, ["array", "count"], ["axes", "is_padded"])


def is_unknown(value: Any) -> bool:
    """Return True for an array or a number with a size that ``jit`` does not know."""
    return isinstance(value, Prefix | Count)


def is_among(arguments: Any) -> bool:
    """Return True if there is one among the arguments."""
    return any(map(is_unknown, jax.tree.leaves(arguments, is_leaf=is_unknown)))


def as_result(value: Any, *, exact: bool) -> Any:
    """Return an array or number with an unknown size as it leaves the program.

    Raises:
      ProgramError: the array would end with NaN, and ``exact`` forbids that.
    """
    if isinstance(value, Count):
        return value.number()
    if isinstance(value, Prefix):
        if exact and not value.is_padded:
            message = "the size of a result depends on the value of a tensor, which is unknown under jax.jit"
            raise ProgramError("node-failed", message) from UnprovenError()
        return value.array if value.is_padded else value.filled()
    return value


def without_padding(arguments: Any) -> tuple[Any, list[Array]] | None:
    """Return arguments as if packed batches had no padding, and whether that holds for each; or None."""
    leaves, structure = jax.tree.flatten(arguments, is_leaf=is_unknown)
    counts = [leaf.count if isinstance(leaf, Prefix) else leaf for leaf in leaves if is_unknown(leaf)]
    if not counts or not all(count.is_packed for count in counts):
        return None
    whole = [
        leaf.whole * leaf.times
        if isinstance(leaf, Count)
        else leaf.whole()
        if isinstance(leaf, Prefix)
        else leaf
        for leaf in leaves
    ]
    return jax.tree.unflatten(structure, whole), [count.value == count.whole for count in counts]


def run_proven(apply: Apply, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, bool]:
    """Run an operator on all elements, after a proof that the start of its results is right.

    A `Count` among the arguments is a size of the result, or else a number in it.

    Returns:
      The result, and whether it has the number.
    """
    try:
        return _run_at_sizes(apply, args, kwargs), False
    except UnprovenError:
        leaves, structure = jax.tree.flatten((args, kwargs), is_leaf=is_unknown)
        if not any(isinstance(leaf, Count) for leaf in leaves):
            raise
    numbers = [leaf.number() if isinstance(leaf, Count) else leaf for leaf in leaves]
    args, kwargs = jax.tree.unflatten(structure, numbers)
    try:
        return _run_at_sizes(apply, args, kwargs) if is_among(numbers) else apply(*args, **kwargs), True
    except TypeError as error:
        raise UnprovenError from error


def _run_at_sizes(apply: Apply, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    leaves, structure = jax.tree.flatten((args, kwargs), is_leaf=is_unknown)
    counts = [leaf.count if isinstance(leaf, Prefix) else leaf for leaf in leaves if is_unknown(leaf)]
    if len({count.size for count in counts}) > 1:
        raise UnprovenError
    symbol = _symbol(leaves)
    try:
        traced = _trace(apply, leaves, structure, symbol)
    except (AttributeError, TypeError, ValueError, UNDECIDED) as error:
        raise UnprovenError from error  # It needs the size, or the size of another array equals count.size.
    flow = Flow(symbol)
    if None in flow.run(traced, [Axes()] * len(traced.in_avals)):
        raise UnprovenError
    args, kwargs = jax.tree.unflatten(structure, [_at_size(leaf, counts[0].size) for leaf in leaves])
    results, structure = jax.tree.flatten(apply(*args, **kwargs))
    longs = [flow.long(result.shape) for result in traced.out_avals]
    is_one = all(count.value is counts[0].value for count in counts)
    unknown = [_result(leaf, long, counts[0], is_one) for leaf, long in zip(results, longs, strict=True)]
    if all(
        leaf.is_padded if isinstance(leaf, Prefix) else leaf.is_packed for leaf in filter(is_unknown, leaves)
    ):
        unknown = [replace(leaf, is_padded=True) if isinstance(leaf, Prefix) else leaf for leaf in unknown]
    return jax.tree.unflatten(structure, unknown)


def _symbol(leaves: Sequence[Any]) -> Any:
    """Return a symbol for an unknown size, in the scope of the symbols of an artifact."""
    shapes = [leaf.shape for leaf in map(array_of, leaves) if isinstance(leaf, Array)]
    scopes = (n.scope for shape in shapes for n in shape if jax.export.is_symbolic_dim(n))
    (symbol,) = jax.export.symbolic_shape("unknown", scope=next(scopes, None))
    return symbol


def _trace(apply: Apply, leaves: Sequence[Any], structure: Any, size: Any) -> Any:
    """Return the operator, traced with ``size`` instead of ``count.size`` for the unknown axes."""

    def run(*arrays: Array) -> list[Any]:
        remaining = iter(arrays)
        arguments = [
            next(remaining) if isinstance(leaf, Prefix | Array) else _at_size(leaf, size) for leaf in leaves
        ]
        args, kwargs = jax.tree.unflatten(structure, arguments)
        return jax.tree.leaves(apply(*args, opaque=True, **kwargs))

    shapes = []
    for leaf in leaves:
        array = array_of(leaf)
        if isinstance(array, Array):
            shape = list(array.shape)
            if isinstance(leaf, Prefix):
                for axis in leaf.axes:
                    shape[axis] = size * leaf.count.times
            shapes.append(jax.ShapeDtypeStruct(tuple(shape), array.dtype))
    return jax.make_jaxpr(run)(*shapes)


def array_of(x: Any) -> Any:
    """Return the array of a `Prefix`, and any other value unchanged."""
    return x.array if isinstance(x, Prefix) else x


def _at_size(leaf: Any, size: Any) -> Any:
    return size * leaf.times if isinstance(leaf, Count) else array_of(leaf)


def _result(leaf: Any, long: Mapping[int, int] | None, count: Count, is_one: bool) -> Any:
    """Return a result with its long axes. Several are of one count, if the arguments have only one."""
    if long == {}:
        return leaf
    if long is None or len({*long.values()}) > 1 or (len(long) > 1 and not is_one):
        raise UnprovenError
    times = next(iter(long.values()))
    if jnp.ndim(leaf) <= max(long) or any(leaf.shape[axis] != times * count.size for axis in long):
        raise UnprovenError
    return Prefix(leaf, tuple(sorted(long)), replace(count, times=times))
