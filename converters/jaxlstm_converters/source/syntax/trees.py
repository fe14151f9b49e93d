"""Syntax trees of Python: the few forms that the writer makes."""

import ast
import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from jaxlstm.programs.graph import Structure

Tree = TypeVar("Tree", bound=ast.AST)


def name(identifier: str) -> ast.Name:
    """Return a variable that is read."""
    return ast.Name(identifier, ast.Load())


def target(tree: ast.expr) -> ast.expr:
    """Return a variable, attribute or tuple of variables as the target of an assignment."""
    if isinstance(tree, ast.Tuple):
        return ast.Tuple([target(item) for item in tree.elts], ast.Store())
    assert isinstance(tree, ast.Name | ast.Attribute | ast.Subscript)
    stored = copy.copy(tree)
    stored.ctx = ast.Store()
    return stored


def assign(to: ast.expr, value: ast.expr) -> ast.Assign:
    """Return an assignment."""
    return ast.Assign([target(to)], value, lineno=1)


def attribute(owner: ast.expr, attr: str) -> ast.Attribute:
    """Return an attribute that is read."""
    return ast.Attribute(owner, attr, ast.Load())


def item(owner: ast.expr, key: object) -> ast.Subscript:
    """Return an item that is read."""
    return ast.Subscript(owner, ast.Constant(key), ast.Load())  # type: ignore[arg-type]


def call(function: ast.expr, *args: ast.expr, **kwargs: ast.expr) -> ast.Call:
    """Return a call."""
    return ast.Call(function, list(args), [ast.keyword(key, value) for key, value in kwargs.items()])


def grouped(items: Sequence[ast.expr]) -> ast.expr:
    """Return a tuple, its only item, or None for no items."""
    if not items:
        return ast.Constant(None)
    return items[0] if len(items) == 1 else ast.Tuple(list(items), ast.Load())


def hinted(tree: Tree, hint: str) -> Tree:
    """Return a tree that knows a name: an argument of ``__init__`` has it if instances differ there."""
    tree.hint = hint  # type: ignore[attr-defined]
    return tree


def parsed(text: str) -> ast.expr:
    """Return the tree of an expression."""
    return ast.parse(text, mode="eval").body


def shown(tree: ast.AST) -> str:
    """Return the text of a tree."""
    return ast.unparse(ast.fix_missing_locations(tree))


def replaced(tree: Tree, replacement: Callable[[ast.AST], ast.AST | None]) -> Tree:
    """Return a tree in which ``replacement`` gives other parts, outermost first; None for no other part."""
    return _Replacer(replacement).visit(tree)


class _Replacer(ast.NodeTransformer):
    def __init__(self, replacement: Callable[[ast.AST], ast.AST | None]) -> None:
        self._replacement = replacement

    def visit(self, node: ast.AST) -> Any:
        found = self._replacement(node)
        return self.generic_visit(node) if found is None else found


MARK = "%"
"""Starts the name of a value among the names of Python."""


def marked(value: str) -> ast.Name:
    """Return the name that stands for a value until its expression is known."""
    return name(MARK + value)


def marked_parts(structure: Structure) -> ast.expr:
    """Return the nested tuples of names that stand for the values in a structure."""
    if isinstance(structure, tuple):
        return ast.Tuple([*map(marked_parts, structure)], ast.Load())
    return ast.Constant(None) if structure is None else marked(structure)


def leaves(value: Structure) -> Iterator[str]:
    """Yield the values in a structure."""
    if isinstance(value, tuple):
        for item in value:
            yield from leaves(item)
    elif value is not None:
        yield value


def mark_of(tree: ast.AST) -> str | None:
    """Return the value for which a tree stands, None for other trees."""
    return tree.id[1:] if isinstance(tree, ast.Name) and tree.id.startswith(MARK) else None


def marks(tree: ast.AST) -> list[str]:
    """Return the values whose marked names are in a tree."""
    return [value for node in ast.walk(tree) if (value := mark_of(node)) is not None]


def variables(tree: ast.AST, context: type[ast.expr_context] = ast.expr_context) -> list[str]:
    """Return the variables that a tree reads (``ast.Load``), sets (``ast.Store``) or both."""
    return [n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, context)]
