"""The names in a method: the expressions of values and free sizes, and the variables in use."""

from __future__ import annotations

import ast
import copy
from collections import Counter
from collections.abc import Collection, Iterator, Mapping

from jaxlstm.programs.graph import Node
from jaxlstm_converters.source.graph.calls import Item, nodes_of
from jaxlstm_converters.source.methods.context import Context
from jaxlstm_converters.source.methods.method import LineItem, Statement, needed
from jaxlstm_converters.source.modules.call_form import Pattern, names_in
from jaxlstm_converters.source.syntax import names, trees
from jaxlstm_converters.source.syntax.names import Target

LETTERS = ("y", "z", "u", "v", "w", "p", "q", "r", "s", "a", "b", "c", "d", "e", "f", "g", "k", "m", "n")
_SEVERAL = {"lstm": ("y", "h", "c"), "lstm_cell": ("h", "c"), "gru": ("y", "h"), "max": ("values", "indices")}
_KINDS = {
    "softmax": "weights",
    "bmm": "scores",
    "matmul": "scores",
    "arange": "positions",
    "argmax": "best",
    **dict.fromkeys(("ne", "eq", "lt", "gt", "ge", "le", "logical_not", "bitwise_not"), "mask"),
    "mean": "mean",
    "cat": "joined",
    "stack": "stacked",
    "zeros": "zeros",
}


class Scope:
    """The names in a method.

    Attributes:
        values: the expression of each value.
        parameters: the variable of each value and size that is a parameter.
        functions: the functions that the method defines.
        left: the number of times that the rest of the method uses each value.
    """

    def __init__(self, context: Context, left: Counter[str], reserved: Collection[str]) -> None:
        self.values: dict[str, ast.expr] = {}
        self.parameters: dict[str, str] = {}
        self.functions: set[str] = set()
        self.left = left
        self._context = context
        self._reserved = reserved
        self._needed = {size for name in left for size in context.model.sizes.leaves(name, computed=True)}
        self._sizes: dict[str, ast.expr] = {}
        self._header: dict[str, tuple[str, int]] = {}

    def share(self, outer: Scope, values: Collection[str]) -> None:
        """Use values and sizes of the method around a function, whose variables get no other meaning."""
        self._sizes = {**outer._sizes}  # without the sizes that only the function knows
        for name in values:
            if not self._context.model.sizes.is_size(name):
                self.values[name] = outer.value(name)
                self.functions.update(trees.variables(self.values[name]))

    def take(self, name: str, variable: str) -> None:
        """Let a parameter stand for a value or size."""
        self.parameters[name] = variable
        (self._sizes if self._context.model.sizes.is_size(name) else self.values)[name] = trees.name(variable)

    def value(self, name: str) -> ast.expr:
        """Return the expression of a value or size."""
        if self._context.model.sizes.is_size(name):
            return self._context.model.sizes.expression(name, self.size, self._knows)
        if name in self.values:
            return self.values[name]
        tensor = self._context.tensor(name)
        assert tensor is not None, f"{name} is not defined in {self._context.path}"
        return tensor

    def named(self, value: str, target: str, step: LineItem, expression: ast.expr | None = None) -> ast.Name:
        """Give a value a variable, which no other value in use has: one of its expression if it has one."""
        taken = self.taken()
        candidates = [target, *self._fallbacks(step, expression), *LETTERS]
        name = next((c for c in candidates if c and names.is_name(c) and c not in taken), "")
        variable = ast.Name(name or names.unique("value", taken), ast.Load())
        self.values[value] = variable
        return variable

    def _fallbacks(self, step: LineItem, expression: ast.expr | None) -> list[str]:
        if isinstance(step.item, Node):
            kind = _kind(step.item)
            if kind in _KINDS:
                return [_KINDS[kind]]
        return trees.variables(expression)[:4] if expression else []

    def taken(self) -> set[str]:
        """Return the variables that values in use need."""
        used = [expression for name, expression in self.values.items() if self.left[name] > 0]
        expressions = (*used, *self._sizes.values())
        return self.functions.union(*map(trees.variables, expressions))

    def size(self, symbol: str) -> ast.expr:
        """Return the expression of a free size."""
        if symbol not in self._sizes:
            axis_of = self._context.model.sizes.axis_of
            axes = ((name, axis_of(name, symbol)) for name in (*self.parameters, *self.values))
            # The first parameter, or else value, that has an axis of the size.
            name, axis = next(((name, axis) for name, axis in axes if axis is not None), ("", 0))
            assert name, f"{symbol} is not known in {self._context.path}"
            if name not in self.parameters:
                return trees.item(trees.attribute(copy.deepcopy(self.values[name]), "shape"), axis)
            variable = self._size_name(name, axis)
            self._header[variable] = (self.parameters[name], axis)
            self._sizes[symbol] = trees.name(variable)
        return self._sizes[symbol]

    def _knows(self, symbol: str) -> bool:
        """Return True for a size that a variable or a parameter shows."""
        axis_of = self._context.model.sizes.axis_of
        return symbol in self._sizes or any(axis_of(name, symbol) is not None for name in self.parameters)

    def read_inner_sizes(self, pattern: Pattern) -> Iterator[Statement]:
        """Yield statements that read the sizes that no parameter shows, each from the first value with it."""
        sizes = self._context.model.sizes
        for name in names_in(pattern):
            for symbol in sizes.symbols_of(name):
                is_call = symbol in sizes.computed.values() and not isinstance(self.values[name], ast.Name)
                if symbol not in self._needed or self._knows(symbol) or is_call:
                    continue
                axis = sizes.axis_of(name, symbol)
                assert axis is not None
                variable = trees.name(self._size_name(name, axis))
                shape = trees.attribute(copy.deepcopy(self.values[name]), "shape")
                self._sizes[symbol] = variable
                yield Statement(trees.assign(variable, trees.item(shape, axis)))

    def _size_name(self, name: str, axis: int) -> str:
        shape = self._context.model.types[name].shape
        free = [place for place in range(1, len(shape)) if not isinstance(shape[place], int)]
        kind = (
            "batch" if axis == 0 else "length" if len(free) < 2 else "height" if axis == free[0] else "width"
        )
        taken = {*self.taken(), *self.parameters.values(), *self._header, *self._reserved}
        return names.unique(kind, taken)

    def finished(self, statements: list[Statement]) -> list[Statement]:
        """Return the statements that are needed, with the sizes read at the start."""
        statements = needed(statements)
        loads: Counter[str] = Counter()
        stores: set[str] = set()
        for statement in statements:
            stores.update(trees.variables(statement.tree, ast.Store))
            stores.update(node.arg for node in ast.walk(statement.tree) if isinstance(node, ast.arg))
            loads.update(trees.variables(statement.tree, ast.Load))
        inline: dict[str, ast.expr] = {}
        holders: dict[str, dict[int, str]] = {}
        for variable, (holder, axis) in self._header.items():
            if loads[variable] == 1 and holder not in stores:
                inline[variable] = trees.item(trees.attribute(trees.name(holder), "shape"), axis)
            elif variable in loads:
                holders.setdefault(holder, {})[axis] = variable

        def known(node: ast.AST) -> ast.expr | None:
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                return inline.get(node.id)
            return None

        for statement in statements:
            statement.tree = trees.replaced(statement.tree, known)
        read = []
        for holder, axes in holders.items():
            name = next(name for name, variable in self.parameters.items() if variable == holder)
            read.append(Statement(_read_sizes(holder, axes, len(self._context.model.types[name].shape))))
        return [*read, *statements]


def _read_sizes(holder: str, axes: Mapping[int, str], ndim: int) -> ast.stmt:
    """Return ``b, t = x.shape[:2]``."""
    shape = trees.attribute(trees.name(holder), "shape")
    if len(axes) == 1:
        ((axis, name),) = axes.items()
        return trees.assign(trees.name(name), trees.item(shape, axis))
    count = max(axes) + 1
    targets = ast.Tuple([trees.name(axes.get(axis, "_")) for axis in range(count)], ast.Load())
    if count == ndim:
        return trees.assign(targets, shape)
    part = ast.Slice(None, ast.Constant(count), None)
    return trees.assign(targets, ast.Subscript(shape, part, ast.Load()))


def usual_names(item: Item, pattern: tuple[Pattern, ...]) -> list[Target]:
    """Return the usual names of the results of an operator, in the form of a pattern."""
    node = next((node for node in nodes_of(item) if _kind(node) in _SEVERAL), None)
    usual = list(_SEVERAL[_kind(node)]) if node else []
    if len(usual) != sum(len(part) if isinstance(part, tuple) else 1 for part in pattern):
        return [""] * len(pattern)
    taken = iter(usual)
    return [[next(taken) for _ in part] if isinstance(part, tuple) else next(taken) for part in pattern]


def _kind(node: Node) -> str:
    return node.op.split(".")[1].removeprefix("packed_") if "." in node.op else ""
