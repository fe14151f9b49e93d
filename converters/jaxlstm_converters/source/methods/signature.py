"""The parameters and results of the model: torch's nested arguments as Python's."""

import ast
import re
from collections.abc import Callable, Collection, Iterator

from jaxlstm.programs.graph import Graph, Input, Tree
from jaxlstm_converters.source.methods.method import Method
from jaxlstm_converters.source.syntax import names, trees


def signature(
    graph: Graph, name_of: Callable[[str, Collection[str]], str]
) -> tuple[Method, dict[str, ast.expr]]:
    """Return the parameters of the model and the expression of each input; ``name_of`` chooses names."""
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
            text = name_of(text, {*taken, *keys})
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
