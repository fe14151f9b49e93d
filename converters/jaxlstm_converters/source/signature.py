"""The parameters and results of the model: torch's nested arguments as Python's."""

import ast
import re
from collections.abc import Iterator, Mapping, Sequence, Set

from jaxlstm.programs.graph import Graph, Input, Size, Tree, Value, uses_of
from jaxlstm_converters.source import names, trees
from jaxlstm_converters.source.method import Method
from jaxlstm_converters.source.statements import StatementWriter

Axis = tuple[str, int]

_OF_LAST_AXIS = ("linear", "lstm", "gru", "rnn", "layer_norm")


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
        part = ast.Subscript(expression, ast.Constant(key), ast.Load())
        part.siblings = len(tree.children)  # type: ignore[attr-defined]
        _bind(child, inputs, part, bound)


def fixed_sizes(graph: Graph, bound: Mapping[str, ast.expr], checked: Set[Axis]) -> list[ast.stmt]:
    """Return the assertion that axes have the sizes of the export. At others, results may be wrong."""
    sides: dict[int, list[ast.expr]] = {}
    for declared in graph.inputs:
        for axis, size in enumerate(declared.type.shape if declared.type else ()):
            if isinstance(size, int) and (declared.name, axis) not in checked:
                shape = ast.Attribute(bound[declared.name], "shape", ast.Load())
                sides.setdefault(size, []).append(ast.Subscript(shape, ast.Constant(axis), ast.Load()))
    tests: list[ast.expr] = [
        ast.Compare(first, [ast.Eq()] * (len(others) + 1), [*others, ast.Constant(size)])
        for size, (first, *others) in sides.items()
    ]
    test = tests[0] if len(tests) == 1 else ast.BoolOp(ast.And(), tests)
    return [ast.Assert(test, ast.Constant("the sizes of the export"))] if tests else []


def checked_axes(graph: Graph) -> set[Axis]:
    """Return the axes of inputs, by name and place, whose size a layer checks itself."""
    types, found = graph.types, set()
    # The axes of inputs that an axis of a value still is, as far as equal sizes show.
    origins = {(name, k): {(name, k)} for name, t in graph.input_types.items() for k in range(len(t.shape))}
    for node in graph.nodes:
        layer = node.op.split(".")[1]
        for name in types.keys() & set(uses_of(node)):
            rank = len(types[name].shape)
            checked = [1] if layer.startswith("conv") else []
            if layer.startswith(_OF_LAST_AXIS):
                # Layers check all axes of their states.
                checked = range(rank)[-1 if node.kwargs.get("input") == Value(name) else 0 :]
            found.update(*(origins.get((name, axis), ()) for axis in checked))
            for result, type_ in node.types.items():
                for before, after in _equal_axes(types[name].shape, type_.shape):
                    origins.setdefault((result, after), set()).update(origins.get((name, before), ()))
    return found


def _equal_axes(before: Sequence[Size], after: Sequence[Size]) -> list[tuple[int, int]]:
    """Return the pairs of axes of equal size: at equal places if the ranks are equal, otherwise the last."""
    pairs = [*zip(range(len(before))[::-1], range(len(after))[::-1], strict=False)]
    pairs = pairs if len(before) == len(after) else pairs[:1]
    return [(old, new) for old, new in pairs if before[old] == after[new]]


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
