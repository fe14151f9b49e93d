"""Sizes of axes: which values are sizes, and their expressions in Python."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping

from jaxlstm.programs.graph import Argument, Graph, Node, TensorType, Value, values_in
from jaxlstm_converters.source import trees

_INFIX = {
    "_operator.add": ast.Add,
    "_operator.sub": ast.Sub,
    "_operator.mul": ast.Mult,
    "_operator.floordiv": ast.FloorDiv,
    "_operator.mod": ast.Mod,
    "_operator.pow": ast.Pow,
}
_CALLS = {"torch.sym_max": "max", "torch.sym_min": "min", "torch.sym_int": "int"}


def size_name(symbol: str) -> str:
    """Return the name of a free size among the values of a graph, which no value can have."""
    return f"size {symbol}"


def _arithmetic(left: ast.expr, op: str, right: ast.expr) -> ast.expr:
    """Return a sum or product as a person writes it: numbers last, and differences for negative numbers."""
    if op in ("_operator.add", "_operator.mul") and isinstance(left, ast.Constant):
        left, right = right, left
    number = right.value if isinstance(right, ast.Constant) else None
    if isinstance(number, int) and number < 0 and op == "_operator.add":
        return ast.BinOp(left, ast.Sub(), ast.Constant(-number))
    return ast.BinOp(left, _INFIX[op](), right)


class Sizes:
    """The values of a graph that depend only on the shapes of its inputs.

    A size is an expression of free axes, which every tensor with such an axis shows.
    """

    def __init__(self, graph: Graph, types: Mapping[str, TensorType]) -> None:
        self._types = types
        self._expressions: dict[str, Argument | Node] = {}
        for node in graph.nodes:
            if (expression := self._expression_of(node)) is not None:
                self._expressions[node.name] = expression

    def is_size(self, name: str) -> bool:
        """Return True for the name of a size."""
        return name in self._expressions or name.startswith("size ")

    def symbols_of(self, name: str) -> list[str]:
        """Return the sizes that the shape of a value shows."""
        return [symbol for symbol in self._symbols(name) if symbol]

    def axis_of(self, name: str, symbol: str) -> int | None:
        """Return the first axis of a value that has a size."""
        symbols = self._symbols(name)
        return symbols.index(symbol) if symbol in symbols else None

    def _symbols(self, name: str) -> list[str]:
        """Return the size of each axis of a value, "" for numbers and unknown sizes."""
        type_ = self._types.get(name)
        if type_ is None:
            return []
        texts = type_.expressions or ("",) * len(type_.shape)
        # torch's text of an expression of free axes names its value: equal texts are equal sizes.
        shown = [
            "" if isinstance(size, int) else size or text
            for size, text in zip(type_.shape, texts, strict=True)
        ]
        return [size_name(size) if size else "" for size in shown]

    def leaves(self, name: str) -> set[str]:
        """Return the free sizes in the expression of a size; none for other values."""
        if name.startswith("size "):
            return {name}
        found = self._expressions.get(name)
        if isinstance(found, Node):
            return {leaf for value in values_in(found.args) for leaf in self.leaves(value)}
        return {leaf for value in values_in(found) for leaf in self.leaves(value)}

    def expression(self, name: str, leaf: Callable[[str], ast.expr]) -> ast.expr:
        """Return the expression of a size in Python; ``leaf`` spells a free size."""
        if name.startswith("size "):
            return leaf(name)
        found = self._expressions[name]
        if isinstance(found, Node):
            left, *right = (self._operand(argument, leaf) for argument in found.args)
            if found.op in _INFIX:
                return _arithmetic(left, found.op, right[0])
            return trees.call(trees.name(_CALLS[found.op]), left, *right)
        return self._operand(found, leaf)

    def _operand(self, argument: Argument, leaf: Callable[[str], ast.expr]) -> ast.expr:
        if isinstance(argument, Value):
            return self.expression(argument.name, leaf)
        assert isinstance(argument, int | float), argument
        return ast.Constant(argument)

    def _expression_of(self, node: Node) -> Argument | Node:
        """Return the free size, number or node that gives a size; None if the node gives none."""
        if node.op == "aten.sym_size.int":
            tensor, dim = node.kwargs["self"], node.kwargs["dim"]
            assert isinstance(tensor, Value)
            assert isinstance(dim, int)
            type_ = self._types.get(tensor.name)
            size = type_.shape[dim] if type_ else None
            symbol = self._symbols(tensor.name)[dim] if type_ else ""
            return Value(symbol) if symbol else size
        if node.op not in _INFIX and node.op not in _CALLS:
            return None
        return node if all(map(self.is_size, values_in(node.args))) else None
