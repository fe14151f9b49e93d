"""The expression of one operator."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxlstm.programs.graph import Node, TensorType
from jaxlstm.programs.operators.registry import find_operator
from jaxlstm_converters.source.spelling import creation, elementwise, images, indexing, reductions, shapes
from jaxlstm_converters.source.spelling.template import Expression, filled
from jaxlstm_converters.source.spelling.typed_node import Rule, TypedNode

_TABLES = (elementwise, shapes, indexing, creation, reductions, images)
_RULES: dict[str, Rule] = {name: rule for table in _TABLES for name, rule in table.RULES.items()}


class Spelling(NamedTuple):
    """The expression of a node.

    Attributes:
      expr: the tree. The names ``jnp``, ``jax``, ``lax`` (``jax.lax``), ``nnx`` and ``jaxlstm`` stand for
        the modules. An operator with several results gives a tuple or a list of them. An argument may occur
        several times.
      idiomatic: False for a call of :func:`jaxlstm.programs.call`.
    """

    expr: ast.expr
    idiomatic: bool


def spell(node: Node, types: Mapping[str, TensorType], expression: Expression) -> Spelling:
    """Return the expression that a person would write for a node.

    Args:
      node: a call of a registered operator. An operator that writes in place is spelled as a function.
      types: the types of the tensors of the graph, by name of value. Other values are sizes.
      expression: gives the tree of a value, or of a graph that ``cond`` and the like call.
    """
    operation = TypedNode(node, types)
    template = _template(operation)
    is_idiomatic = template is not None
    if template is None:
        template = _call(operation)
    tree = filled(template, {**operation.arguments, **operation.extra}, expression)
    if not node.with_gradient and any(_has_gradient(result) for result in operation.results):
        tree = filled("lax.stop_gradient(result)", {"result": tree}, expression)
    return Spelling(tree, is_idiomatic)


def _template(operation: TypedNode) -> str | None:
    name = operation.name.removeprefix("aten.")
    rule = _RULES.get(name) or _RULES.get(name.rpartition(".")[0])
    return rule if isinstance(rule, str | None) else rule(operation)


def _call(operation: TypedNode) -> str:
    """Return the template of a call of the operator itself.

    A function may take any keywords, so that a name in the template may come from a file.
    """
    node, result = operation.node, operation.result
    operator = find_operator(node.op)
    operation.extra["operator_"] = node.op
    if operator is None:
        raise KeyError(f"operator {node.op} is not registered")
    defaults = {name: p.default for name, p in operator.signature.parameters.items()}
    given: dict[str, Any] = {
        name: value
        for name, value in operation.arguments.items()
        if name.isidentifier() and not _is_default(value, defaults.get(name))
    }
    if operator.creates and result is not None and operation["dtype"] is None:
        given["dtype"] = operation.arguments["dtype"] = result.dtype
    first = operator.first_parameter
    positional = [f", {first}"] if first in given else []
    keywords = [f", {name}={name}" for name in given if name != first]
    return f"jaxlstm.programs.call(operator_{''.join(positional + keywords)})"


def _is_default(value: Any, default: Any) -> bool:
    return type(value) is type(default) and value == default


def _has_gradient(result: TensorType | None) -> bool:
    return result is not None and (jnp.issubdtype(result.dtype, np.inexact))
