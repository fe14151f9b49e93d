"""Updates of NumPy inputs: only JAX's arrays have ``.at``."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Set

from jaxlstm_converters.source import trees
from jaxlstm_converters.source.method import Statement

_FUNCTIONS = frozenset({"jax", "jnp", "lax", "nnx", "signal", "jaxlstm", "self"})
"""The names through which a method calls what returns JAX's arrays."""


def with_updates(statements: Iterable[Statement], parameters: Iterable[str]) -> None:
    """Convert values to JAX's arrays where they are updated, and may be NumPy's as the parameters are."""
    host = set(parameters)
    for statement in statements:
        statement.tree = _Converted(host).visit(statement.tree)
        if isinstance(statement.tree, ast.Assign):
            stored = trees.variables(statement.tree, ast.Store)
            host = host.union(stored) if _is_host(statement.tree.value, host) else host.difference(stored)


class _Converted(ast.NodeTransformer):
    """Writes ``jnp.asarray(x).at`` for ``x.at``."""

    def __init__(self, host: Set[str]) -> None:
        self._host = host

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        if node.attr == "at" and _is_host(node.value, self._host):
            node.value = trees.call(trees.parsed("jnp.asarray"), node.value)
        return node


def _is_host(tree: ast.expr, host: Set[str]) -> bool:
    """Return True for an expression that may be a NumPy array."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == "at":
            return False
        if isinstance(node, ast.Call) and not _FUNCTIONS.isdisjoint(trees.variables(node.func)):
            return False
    return not host.isdisjoint(trees.variables(tree, ast.Load))
