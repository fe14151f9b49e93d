"""Updates of NumPy inputs: only JAX's arrays have ``.at``."""

import ast
from collections.abc import Iterable, Set

from jaxlstm_converters.source.methods.method import Statement
from jaxlstm_converters.source.syntax import trees

# The names through which a method calls what returns JAX's arrays.
_JAX = frozenset({"jax", "jnp", "lax", "nnx", "signal", "jaxlstm", "self"})


def with_updates(statements: Iterable[Statement], parameters: Iterable[str]) -> None:
    """Write ``jnp.asarray(x).at`` for ``x.at`` where x may be a NumPy array, as the parameters may be."""
    host = {*parameters}
    for statement in statements:
        for node in ast.walk(statement.tree):
            if isinstance(node, ast.Attribute) and node.attr == "at" and _is_host(node.value, host):
                node.value = trees.call(trees.parsed("jnp.asarray"), node.value)
        if isinstance(statement.tree, ast.Assign):
            stored = trees.variables(statement.tree, ast.Store)
            host = host.union(stored) if _is_host(statement.tree.value, host) else host.difference(stored)


def _is_host(tree: ast.expr, host: Set[str]) -> bool:
    """Return True for an expression that may be a NumPy array."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == "at":
            return False
        if isinstance(node, ast.Call) and not _JAX.isdisjoint(trees.variables(node.func)):
            return False
    return not host.isdisjoint(trees.variables(tree, ast.Load))
