"""Sizes of axes: which values are sizes, and their expressions in Python."""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from jaxlstm.programs.graph import Argument, Graph, Node, TensorType, Value, all_nodes, used_values, values_in
from jaxlstm_converters.source.spelling import spell
from jaxlstm_converters.source.syntax.template import tree_of

_OPERATORS = {
    f"_operator.{name}" for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "neg")
}
_OPERATORS |= {f"math.{name}" for name in ("ceil", "floor", "trunc")}
_OPERATORS |= {f"torch.sym_{name}" for name in ("max", "min", "int", "float", "sqrt")}


def size_name(symbol: str) -> str:
    """Return the name of a free size among the values of a graph, which no value can have."""
    return f"size {symbol}"


class Sizes:
    """The values of a graph that depend only on the shapes of its inputs.

    A size is an expression of free axes, which every tensor with such an axis shows. ``computed`` has the
    name of each computed size that an axis would have.
    """

    def __init__(self, graph: Graph, types: Mapping[str, TensorType]) -> None:
        self._types = types
        self._expressions: dict[str, Argument | Node] = {}
        nodes = [*all_nodes(graph)]
        computed = (node for node in nodes if node.size and node.op in _OPERATORS)
        self.computed = {node.name: size_name(node.size) for node in computed}
        others = [node for node in nodes if node.op != "aten.sym_size.int"]
        self._needed = used_values(replace(graph, nodes=others)) | {item.name for item in graph.inputs}
        for node in nodes:
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
        sizes = zip(type_.shape, texts, strict=True)
        shown = ("" if isinstance(size, int) else size or text for size, text in sizes)
        return [size_name(size) if size else "" for size in shown]

    def leaves(self, name: str, known: Collection[str] = (), *, computed: bool = False) -> set[str]:
        """Return the free and known sizes in the expression of a size, and its computed parts if wanted."""
        if name.startswith("size "):
            return {name}
        if self.computed.get(name) in known:
            return {self.computed[name]}
        found = self._expressions.get(name)
        argument = found.args if isinstance(found, Node) else found
        leaves = {
            leaf for value in values_in(argument) for leaf in self.leaves(value, known, computed=computed)
        }
        return leaves | {self.computed[name]} if computed and name in self.computed else leaves

    def expression(
        self, name: str, leaf: Callable[[str], ast.expr], is_known: Callable[[str], bool]
    ) -> ast.expr:
        """Return the expression of a size in Python; ``leaf`` spells a free or known size."""
        if name.startswith("size "):
            return leaf(name)
        if name in self.computed and is_known(self.computed[name]):
            return leaf(self.computed[name])
        found = self._expressions[name]

        def operand(argument: Argument) -> ast.expr:
            assert isinstance(argument, Value), argument
            return self.expression(argument.name, leaf, is_known)

        return spell(found, {}, operand).expr if isinstance(found, Node) else tree_of(found, operand)

    def _expression_of(self, node: Node) -> Argument | Node:
        """Return the free size, number or node that gives a size; None if the node gives none."""
        tensor = node.kwargs.get("self")
        type_ = self._types.get(tensor.name) if isinstance(tensor, Value) else None
        is_vector = type_ is not None and len(type_.shape) == 1
        if node.op == "aten.sym_size.int" or (node.op == "aten.sym_numel.default" and is_vector):
            assert isinstance(tensor, Value)
            dim = node.kwargs.get("dim", 0)
            assert isinstance(dim, int)
            size = type_.shape[dim] if type_ else None
            symbol = self._symbols(tensor.name)[dim] if type_ else ""
            if size is None and tensor.name not in self._needed:
                return None  # Only this operator shows the size.
            return Value(symbol) if symbol else size
        if node.op not in _OPERATORS:
            return None
        return node if all(map(self.is_size, values_in(node.args))) else None


def sizes_of(type_: TensorType) -> tuple[Argument, ...]:
    """Return the shape of a tensor as an argument, in which free sizes are values."""
    texts = type_.expressions or ("",) * len(type_.shape)
    sizes = zip(type_.shape, texts, strict=True)
    return tuple(size if isinstance(size, int) else Value(size_name(size or text)) for size, text in sizes)
