"""The dtype of floats that an operator makes of none: torch's float32, where JAX's 64-bit mode has float64.

A class has the dtype as an attribute, as the layers of Flax do, so that a model in another dtype stays whole.
"""

import ast
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from jaxlstm.programs.graph import Node, TensorType, results_of, uses_of
from jaxlstm_converters.source import trees
from jaxlstm_converters.source.spelling import Spelling
from jaxlstm_converters.source.trees import Tree

SINGLE = trees.parsed("jnp.float32")
_MAKERS = ("jnp.zeros", "jnp.ones", "jnp.full", "jnp.array", "jnp.arange", "jnp.linspace", "jnp.eye")


def with_dtype(spelling: Spelling, node: Node, types: Mapping[str, TensorType], dtype: ast.expr) -> Spelling:
    """Return the spelling of a node in which new floats have a dtype, also in the place of Python's float."""
    before, tree = trees.shown(spelling.expr), _replaced(spelling.expr, dtype)
    made, given = ([types[n] for n in names if n in types] for names in (results_of(node), uses_of(node)))
    is_single = any(type_.dtype == np.float32 for type_ in made)
    function = trees.shown(tree.func) if isinstance(tree, ast.Call) else ""
    if not is_single or not spelling.idiomatic or trees.shown(tree) != before:
        return spelling._replace(expr=tree)
    if isinstance(tree, ast.Call) and function in _MAKERS:
        positional = function in _MAKERS[:4]
        tree.args += [dtype] * positional
        tree.keywords += [ast.keyword("dtype", dtype)] * (not positional)
    elif not any(jnp.issubdtype(type_.dtype, np.inexact) for type_ in given):
        tree = trees.call(trees.attribute(tree, "astype"), dtype)
    return spelling._replace(expr=tree)


def _replaced(tree: Tree, dtype: ast.expr) -> Tree:
    """Return a tree with another dtype for ``float``, which may also be called to convert a size."""

    def other(node: ast.AST) -> ast.AST | None:
        if isinstance(node, ast.Call) and trees.shown(node.func) == "float":
            return node
        return dtype if isinstance(node, ast.Name) and node.id == "float" else None

    return trees.replaced(tree, other)
