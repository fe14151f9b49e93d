"""The names that a line of the user's code has for the values that its nodes take."""

import ast
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from jaxlstm.programs.graph import Node, results_of, uses_of
from jaxlstm_converters.source.graph.calls import Item
from jaxlstm_converters.source.syntax import names

# The name of an operator or module, and its operands.
Operation: TypeAlias = "tuple[str, Sequence[ast.expr]]"

_INDEX = "index"
_KINDS = {"select": _INDEX, "slice": _INDEX, "unsqueeze": _INDEX, "true_divide": "div", "view": "reshape"}
_BINARY = {
    ast.Add: "add",
    ast.Sub: "sub",
    ast.Mult: "mul",
    ast.Div: "div",
    ast.MatMult: "matmul",
    ast.Pow: "pow",
    ast.Mod: "remainder",
    ast.FloorDiv: "floor_divide",
    ast.Eq: "eq",
    ast.NotEq: "ne",
    ast.Lt: "lt",
    ast.LtE: "le",
    ast.Gt: "gt",
    ast.GtE: "ge",
    ast.BitAnd: "bitwise_and",
    ast.BitOr: "bitwise_or",
}
_MODULES = ("torch", "F", "_VF", "functional", "nn")


def named_operands(line: str, items: Sequence[Item]) -> dict[str, str]:
    """Return value -> name in a line, for the values that have one name there for certain.

    Python evaluates the parts of a line in an order that their nodes keep. So the calls of one operator in
    the line are its nodes, one by one, if there are as many.

    Args:
        line: a line of the user's code.
        items: the nodes and calls of modules that it led to, in their order.
    """
    written: dict[str, list[Sequence[ast.expr]]] = defaultdict(list)
    for kind, operands in _operations(names.tree_of_line(line)):
        written[kind].append(operands)
    made: dict[str, list[Sequence[str]]] = defaultdict(list)
    parts = set[str]()  # results of indexing, which may be several nodes for one expression
    for item in items:
        kind, operands = _operation_of(item)
        if kind != _INDEX or parts.isdisjoint(operands[:1]):
            made[kind].append(operands)
        if kind == _INDEX and isinstance(item, Node):
            parts.update(results_of(item))
    found: dict[str, set[str]] = defaultdict(set)
    for kind, nodes in made.items():
        if len(nodes) == len(written[kind]):
            for trees, values in zip(written[kind], nodes, strict=True):
                for tree, value in _pairs(kind, trees, values):
                    if isinstance(tree, ast.Name):
                        found[value].add(tree.id)
    certain = {value: name for value, (name, *others) in found.items() if not others}
    times = [*certain.values()]
    return {value: name for value, name in certain.items() if times.count(name) == 1}


def _pairs(kind: str, trees: Sequence[ast.expr], values: Sequence[str]) -> Iterator[tuple[ast.expr, str]]:
    """Yield each operand of an operation with its value, where both are known."""
    if len(trees) == len(values) or kind == _INDEX:
        yield from zip(trees, values, strict=False)


def _operation_of(item: Item) -> tuple[str, Sequence[str]]:
    if isinstance(item, Node):
        kind = item.op.split(".")[1].strip("_") if "." in item.op else item.op
        return _KINDS.get(kind, kind), list(uses_of(item))
    return item.path.rpartition(".")[2], ["", *item.inputs]  # The module is the first operand of its call.


def _operations(tree: ast.AST) -> Iterator[Operation]:
    """Yield the operations of a line in the order in which Python evaluates them."""
    for child in ast.iter_child_nodes(tree):
        yield from _operations(child)
    match tree:
        case ast.Subscript(value):
            yield _INDEX, [value]
        case ast.BinOp(left, operator, right) | ast.Compare(left, [operator], [right]):
            yield _BINARY.get(type(operator), ""), _without_constants([left, right])
        case ast.Call(ast.Attribute(ast.Name(module), name), arguments) if module in _MODULES:
            yield _KINDS.get(name, name), _without_constants(arguments)
        case ast.Call(ast.Attribute(value, name), arguments):
            yield _KINDS.get(name, name), _without_constants([value, *arguments])
        case ast.Call(ast.Name(name), arguments):
            yield name, _without_constants(arguments)


def _without_constants(operands: Sequence[ast.expr]) -> list[ast.expr]:
    """Return the operands that may be values; a list stands for its items."""
    found: list[ast.expr] = []
    for operand in operands:
        match operand:
            case ast.List(items) | ast.Tuple(items):
                found += _without_constants(items)
            case ast.Constant() | ast.UnaryOp(_, ast.Constant()):
                pass
            case _:
                found.append(operand)
    return found
