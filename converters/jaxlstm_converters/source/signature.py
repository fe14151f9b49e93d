"""The parameters and results of the model: torch's nested arguments as Python's."""

import ast
import re
from collections.abc import Iterator, Mapping, Sequence, Set

from jaxlstm.programs.graph import Graph, Input, Node, Size, Tree, Value, uses_of
from jaxlstm.programs.operators.registry import find_operator
from jaxlstm_converters.source import names, trees
from jaxlstm_converters.source.method import Method
from jaxlstm_converters.source.statements import StatementWriter

Axis = tuple[str, int]


def signature(graph: Graph, writer: StatementWriter) -> tuple[Method, dict[str, ast.expr]]:
    """Return the parameters of the model, which ``writer`` writes, and the expression of each input."""
    inputs = iter(graph.inputs)
    bound: dict[str, ast.expr] = {}
    taken: set[str] = set()
    method = Method([], [])
    positional, named = graph.in_tree.children
    keys = [*[None] * len(positional.children), *map(str, named.keys)]
    for key, child in zip(keys, (*positional.children, *named.children), strict=True):
        leaves = [next(inputs) for _ in range(child.leaf_count())]
        text = (_common(child, leaves[0].name) if leaves else "unused") if key is None else key
        if key is None and child.kind == "leaf":
            text = writer.argument_name(text, {*taken, *keys})
        is_free = names.is_name(text) and text not in taken
        name = text if is_free else names.valid_name(text, taken, default="x")
        taken.add(name)
        (method.parameters if key is None else method.keywords).append(ast.arg(name))
        _bind(child, iter(leaves), trees.name(name), bound)
    return method, bound


def _bind(tree: Tree, inputs: Iterator[Input], expression: ast.expr, bound: dict[str, ast.expr]) -> None:
    if tree.kind == "leaf":
        bound[next(inputs).name] = expression
        return
    keys = tree.keys if tree.kind == "dict" else range(len(tree.children))
    for key, child in zip(keys, tree.children, strict=True):
        part = trees.item(expression, key)
        part.siblings = len(tree.children) if tree.kind != "dict" else 0  # type: ignore[attr-defined]
        _bind(child, inputs, part, bound)


def fixed_by_export(graph: Graph, bound: Mapping[str, ast.expr], checked: Set[Axis]) -> list[ast.expr]:
    """Return conditions that inputs are as the export fixed them, except for axes that are checked."""
    sides: dict[int, list[ast.expr]] = {}
    tests: list[ast.expr] = []
    for declared in graph.inputs:
        expression = bound[declared.name]
        if declared.type is None:
            is_equal = ast.Is() if isinstance(declared.constant, bool | None) else ast.Eq()
            tests.append(ast.Compare(expression, [is_equal], [ast.Constant(declared.constant)]))
        for axis, size in enumerate(declared.type.shape if declared.type else ()):
            if isinstance(size, int) and (declared.name, axis) not in checked:
                shape = trees.attribute(expression, "shape")
                sides.setdefault(size, []).append(trees.item(shape, axis))
    return tests + [
        ast.Compare(first, [ast.Eq()] * (len(others) + 1), [*others, ast.Constant(size)])
        for size, (first, *others) in sides.items()
    ]


def checked_axes(graph: Graph) -> set[Axis]:
    """Return the axes of inputs, by name and place, whose size a layer checks itself."""
    types, found = graph.types, set()
    origins = {(name, k): {(name, k)} for name, t in graph.input_types.items() for k in range(len(t.shape))}
    for node in graph.nodes:
        for name in types.keys() & set(uses_of(node)):
            for axis in _checked(node, name, len(types[name].shape)):
                found |= origins.get((name, axis), set())
            for result, type_ in node.types.items():
                for before, after in _kept_axes(node, types[name].shape, type_.shape):
                    origins.setdefault((result, after), set()).update(origins.get((name, before), ()))
    return found


def _checked(node: Node, name: str, rank: int) -> Sequence[int]:
    """Return the axes of a value of which a layer knows the size."""
    layer, is_input = node.op.split(".")[1], node.kwargs.get("input") == Value(name)
    if match := re.fullmatch(r"conv(?:_transpose)?([123])d", layer):
        return [rank - int(match[1]) - 1] if is_input else []
    if layer == "linear" or (layer == "layer_norm" and node.kwargs.get("weight") is not None):
        return [rank - 1] if is_input else []
    # The states of a recurrent layer are checked as a whole.
    return range(rank)[-1 if is_input else 0 :] if layer.startswith(("lstm", "gru", "rnn")) else []


def _kept_axes(node: Node, before: Sequence[Size], after: Sequence[Size]) -> list[tuple[int, int]]:
    """Return the pairs of places of the axes that an operator keeps, as far as that is certain."""
    operator = find_operator(node.op)
    places = range(min(len(before), len(after)))
    if operator is not None and operator.layout in ("elementwise", "pads") and len(before) == len(after):
        return [(place, place) for place in places if before[place] == after[place]]
    if node.op == "aten.select.int" and node.kwargs["dim"] not in (-1, len(before) - 1):
        return [(len(before) - 1, len(after) - 1)]
    return []


def _common(tree: Tree, name: str) -> str:
    """Return the name of an argument: torch adds the keys of its first part."""
    keys = ""
    while tree.kind != "leaf":
        place = next(place for place, child in enumerate(tree.children) if child.leaf_count())
        keys += f"_{tree.keys[place] if tree.kind == 'dict' else place}"
        tree = tree.children[place]
    return name.removesuffix(re.sub(r"[^a-zA-Z0-9]", "_", keys).lower()) or name


def structure(tree: Tree, leaves: Iterator[ast.expr]) -> ast.expr:
    """Return the expression of a structure of results."""
    if tree.kind == "leaf":
        return next(leaves)
    if tree.kind == "none":
        return ast.Constant(None)
    members = [structure(child, leaves) for child in tree.children]
    if tree.kind == "dict":
        return ast.Dict([ast.Constant(key) for key in tree.keys], members)
    return (ast.List if tree.kind == "list" else ast.Tuple)(members, ast.Load())
