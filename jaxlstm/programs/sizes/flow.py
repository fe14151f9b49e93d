"""`Flow` proves where the elements along an axis of the arguments of a function reach, by a flow of data.

A function is traced with a symbol for the size of the axis. The axes of its values whose sizes contain the
symbol are *long*. Each operation must then keep one of two invariants, or its results are *mixed*:

- The start of every long axis, up to any size, depends only on the start of the long axes of the operands.
  Later elements may be padding.
- Each element of a row depends on the same row of the arguments, and neither on other rows nor on its place.

A size that becomes a number (``dim_as_value``), any other parameter of an operation that contains the symbol,
and an operation without a rule mix, too. No example of a size is needed.
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.export
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from jaxlstm.programs.sizes.kept_axes import kept_axes

Long = dict[int, Any]
"""Long axis of an array -> its size as a multiple of the free axis: a number, or an expression of others."""

_SIZES = frozenset({"shape", "new_sizes", "limit_indices", "slice_sizes", "sharding", "out_sharding"})
"""Parameters of operations that follow from the shapes of operands and results, or that a rule checks."""


@dataclass(frozen=True)
class Axes:
    """The axes of a value that is not mixed.

    Attributes:
      row: the axis along which it holds rows, or None if it is the same for all rows.
      same: other axes along which all elements are equal.
    """

    row: int | None = None
    same: frozenset[int] = frozenset()

    def is_apart_along(self, axis: int) -> bool:
        """Return True if the elements along an axis belong to one row each, or to all rows alike."""
        return axis == self.row or (self.row is None and axis in self.same)

    def moved(self, offset: int) -> "State":
        """Return the state with each axis one further or nearer; None if the rows have no axis then."""
        row = None if self.row is None else self.row + offset
        same = frozenset(axis + offset for axis in self.same if axis + offset >= 0)
        return None if row is not None and row < 0 else Axes(row, same)


State = Axes | None
"""The axes of a value, or None if it is mixed."""


def symbols(ranges: Mapping[str, tuple[int, int | None]]) -> dict[str, Any]:
    """Return a symbol for the size of each axis, from its smallest to its largest (or None)."""
    names = {axis: f"free{index}" for index, axis in enumerate(ranges)}
    bounds = [f"{names[axis]} >= {low}" for axis, (low, _) in ranges.items()]
    bounds += [f"{names[axis]} <= {high}" for axis, (_, high) in ranges.items() if high is not None]
    sizes = jax.export.symbolic_shape(", ".join(names.values()), constraints=bounds) if names else ()
    return dict(zip(names, sizes, strict=True))


class Flow:
    """The flow of rows, or of the start of an axis, through a function.

    Args:
      size: the symbol for the size of the axis, or the number of rows of a batch of a fixed size.
      rows: each row must depend on itself only, or otherwise, the start of the axis on the start only.
      is_time: the axis is the time of recurrent layers that get lengths.
    """

    def __init__(self, size: Any, *, rows: bool = False, is_time: bool = False) -> None:
        self.size, self.rows, self.is_time = size, rows, is_time
        self._symbol = re.compile(rf"\b{size}\b") if jax.export.is_symbolic_dim(size) else None

    def contains_size(self, value: Any) -> bool:
        """Return True if a size, or a parameter of an operation, contains the symbol."""
        return self._symbol is not None and type(value) is not int and bool(self._symbol.search(str(value)))

    def long(self, shape: Sequence[Any]) -> Long | None:
        """Return the long axes of a shape, or None if a size is not a multiple of the symbol."""
        multiples = {axis: divmod(n, self.size) for axis, n in enumerate(shape) if self.contains_size(n)}
        is_multiple = all(rest == 0 and not self.contains_size(times) for times, rest in multiples.values())
        return {axis: times for axis, (times, _) in multiples.items()} if is_multiple else None

    def run(self, function: Any, arguments: Sequence[State]) -> list[State]:
        """Return the states of the results of a jaxpr from the states of its arguments."""
        jaxpr = function.jaxpr if isinstance(function, ClosedJaxpr) else function
        states: dict[Any, State] = dict.fromkeys(jaxpr.constvars, Axes())
        states.update(zip(jaxpr.invars, arguments, strict=True))

        def state_of(atom: Any) -> State:
            return Axes() if isinstance(atom, Literal) else states[atom]

        for eqn in jaxpr.eqns:
            results = self._equation(eqn, [state_of(atom) for atom in eqn.invars])
            for var, state in zip(eqn.outvars, results, strict=True):
                states[var] = None if self.long(var.aval.shape) is None else state
        return [state_of(atom) for atom in jaxpr.outvars]

    def _equation(self, eqn: Any, ins: list[State]) -> list[State]:
        name = eqn.primitive.name
        if self.is_time and eqn.params.get("name") == "recurrent_layer":
            longs = [self.long(atom.aval.shape) for atom in eqn.invars]
            is_over_time = [*(longs[0] or {}).values()] == [1] and all(long == {} for long in longs[1:])
            return [Axes() if is_over_time and None not in ins else None] * len(eqn.outvars)
        if name in _LOOPS:
            return _LOOPS[name](self, eqn, ins)
        if name in _CALLS:
            (inner,) = (value for value in eqn.params.values() if isinstance(value, Jaxpr | ClosedJaxpr))
            return self.run(inner, ins)
        return [self._result(eqn, ins)] * len(eqn.outvars)

    def _result(self, eqn: Any, ins: list[Any]) -> State:
        """Return the state of the results of an operation without inner functions."""
        is_sized = any(name not in _SIZES and self.contains_size(value) for name, value in eqn.params.items())
        if None in ins or is_sized:
            return None
        operands = [(atom.aval.shape, state) for atom, state in zip(eqn.invars, ins, strict=True)]
        kept = kept_axes(eqn, self.size, self.rows)
        if kept is None:
            is_apart = all(state.row is None for state in ins) and not any(
                self.long(atom.aval.shape) for atom in (*eqn.invars, *eqn.outvars)
            )
            return Axes() if is_apart else None
        rows: set[int] = set()
        varied: set[int] = set()
        equal: set[int] = set()
        for (shape, state), axes in zip(operands, kept, strict=True):
            long: Any = self.long(shape)
            if not {*long, *(() if state.row is None else (state.row,))} <= axes.keys():
                return None
            for axis, place in axes.items():
                is_equal = axis in state.same and shape[axis] == eqn.outvars[0].aval.shape[place]
                (rows if axis == state.row else equal if is_equal else varied).add(place)
        if eqn.primitive.name in ("broadcast_in_dim", "iota"):
            equal |= {*range(len(eqn.outvars[0].aval.shape))} - {eqn.params.get("dimension")}
        if len(rows) > 1 or rows & varied:
            return None  # a row meets another one, or numbers that differ from row to row
        return Axes(next(iter(rows), None), frozenset(equal - varied - rows))

    def _scan(self, eqn: Any, ins: list[State]) -> list[State]:
        first, count = eqn.params["num_consts"], eqn.params["num_carry"]
        consts, carry = ins[:first], ins[first : first + count]
        parts = [state and state.moved(-1) for state in ins[first + count :]]
        if self.contains_size(eqn.params["length"]):
            return [None] * len(eqn.outvars)
        carry, results = self._until_stable(eqn.params["jaxpr"], consts, carry, parts)
        return [*carry, *(state and state.moved(1) for state in results)]

    def _while(self, eqn: Any, ins: list[State]) -> list[State]:
        first, second = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        cond_consts, body_consts, carry = ins[:first], ins[first : first + second], ins[first + second :]
        carry, _ = self._until_stable(eqn.params["body_jaxpr"], body_consts, carry, [])
        is_mixed = None in self.run(eqn.params["cond_jaxpr"], [*cond_consts, *carry])
        return [None] * len(carry) if is_mixed else carry

    def _until_stable(
        self, body: Any, consts: Any, carry: Any, parts: Any
    ) -> tuple[list[State], list[State]]:
        """Return the states of the values that a loop carries from step to step, and of its other results."""
        while True:
            results = self.run(body, [*consts, *carry, *parts])
            joined = [*map(_joined, carry, results)]
            if joined == carry:
                return carry, results[len(carry) :]
            carry = joined

    def _cond(self, eqn: Any, ins: list[State]) -> list[State]:
        results = [self.run(branch, ins[1:]) for branch in eqn.params["branches"]]
        if ins[0] is None:
            return [None] * len(eqn.outvars)
        return [functools.reduce(_joined, states) for states in zip(*results, strict=True)]


def _joined(first: State, second: State) -> State:
    """Return the state of a value that has one of two states."""
    if first is None or second is None:
        return None
    rows = {state.row for state in (first, second)} - {None}
    if len(rows) > 1 or any(state.row is None and not rows <= state.same for state in (first, second)):
        return None
    return Axes(next(iter(rows), None), (first.same & second.same) - rows)


_CALLS = {"jit", "pjit", "closed_call", "remat", "checkpoint", "custom_jvp_call", "custom_vjp_call"}
_LOOPS: dict[str, Callable[[Flow, Any, list[State]], list[State]]] = {
    "scan": Flow._scan,
    "while": Flow._while,
    "cond": Flow._cond,
}
