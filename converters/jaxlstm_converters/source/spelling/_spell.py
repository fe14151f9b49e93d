"""The expression of one operator, and the layer that replaces a module of torch."""

import ast
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxlstm.programs.graph import Node, TensorType
from jaxlstm.programs.operators.registry import find_operator
from jaxlstm_converters.source.spelling import elementwise, images, indexing, reductions, shapes, spectra
from jaxlstm_converters.source.spelling.layers import RULES, TORCH, LayerSpelling
from jaxlstm_converters.source.spelling.typed_node import Rule, TypedNode
from jaxlstm_converters.source.syntax.template import Expression, filled

_TABLES = (elementwise, shapes, indexing, reductions, images, spectra)
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


def spell(
    node: Node,
    types: Mapping[str, TensorType],
    expression: Expression,
    producers: Mapping[str, Node] | None = None,
) -> Spelling:
    """Return the expression that a person would write for a node.

    Args:
      node: a call of a registered operator. An operator that writes in place is spelled as a function.
      types: the types of the tensors of the graph, by name of value. Other values are sizes.
      expression: gives the tree of a value, or of a graph that ``cond`` and the like call.
      producers: the node that makes a value, by name of the value, to recognize indices that are in range.
    """
    operation = TypedNode(node, types, producers=producers or {})
    template = _template(operation)
    is_idiomatic = template is not None
    if template is None:
        template = _call(operation)
    tree = filled(template, {**operation.arguments, **operation.extra}, expression)
    own = operation.type("self")
    if node.op == "aten.select.int" and own is not None and isinstance(tree, ast.Subscript):
        tree.siblings, tree.is_row = own.shape[0], True  # type: ignore[attr-defined]
    dtypes = [result.dtype for result in operation.results if result is not None]
    is_constant = template.startswith(("jnp.zeros", "jnp.ones", "jnp.arange"))
    is_float = any(jnp.issubdtype(dtype, np.inexact) for dtype in dtypes)
    if not node.with_gradient and is_float and not is_constant:
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
    assert operator is not None, f"{node.op} is not registered"
    defaults = {name: p.default for name, p in operator.signature.parameters.items()}
    given: dict[str, Any] = {
        name: value
        for name, value in operation.arguments.items()
        # 1 and 1.0 are equal, but not the same argument.
        if name.isidentifier() and (type(value), value) != (type(defaults.get(name)), defaults.get(name))
    }
    if operator.creates and result is not None and operation["dtype"] is None:
        given["dtype"] = operation.arguments["dtype"] = result.dtype
    keywords = (name if name == operator.first_parameter else f"{name}={name}" for name in given)
    return f"jaxlstm.programs.call({', '.join(['operator_', *keywords])})"


def layer_of(
    node: Node, types: Mapping[str, TensorType], tensors: Mapping[str, str], producers: Mapping[str, Node]
) -> LayerSpelling | None:
    """Return the layer that computes a node, or None.

    The weights must be the tensors of one module: of the calling module, which may be derived from a layer,
    or of a child that has no others. :func:`jaxlstm.load_state_dict` fills the layer with them.

    Args:
      node: a call of an operator.
      types: the types of the tensors of the graph, by name of value.
      tensors: parameters and buffers of the graph: name of the value -> name in torch.
      producers: the node that makes a value, by name of the value, to recognize initial states of zeros.
    """
    operation = TypedNode(node, types, producers=producers)
    rule = RULES.get(operation.name)
    layer = rule(operation) if rule else None
    if layer is None:
        return None
    path = _path(node, layer.constructor, layer.tensors, tensors)
    return None if path is None else replace(layer, path=path)


def spell_call(layer: LayerSpelling, node: Node, receiver: ast.expr, *, is_base: bool = False) -> ast.expr:
    """Return the call of a layer: ``receiver`` is the tree of the module, for example ``self.conv``.

    ``is_base`` calls the method of the class from which the module is derived.
    """
    arguments: dict[str, Any] = {**TypedNode(node, {}).arguments, **layer.operands, "layer": receiver}
    if not is_base:
        return filled(layer.call, arguments)
    arguments["base"] = ast.parse("super().__call__", mode="eval").body
    return filled(layer.call.replace("layer(", "base("), arguments)


def _path(node: Node, layer: str, own: Mapping[str, str], tensors: Mapping[str, str]) -> str | None:
    """Return the path of the module that holds the tensors of a layer under their names."""
    is_torch = bool(node.calls) and node.calls[-1].class_name.startswith(TORCH)
    if layer == "nnx.Dropout":
        return node.module_path if is_torch and ".dropout." in node.calls[-1].class_name else ""
    if not own:
        return node.module_path if is_torch else None
    names = [(tensors.get(value, ""), name) for name, value in own.items()]
    if not all(torch == name or torch.endswith(f".{name}") for torch, name in names):
        return None
    paths = {torch[: -len(name) - 1] if torch != name else "" for torch, name in names}
    if len(paths) > 1:
        return None
    path = paths.pop()
    if path == node.module_path:
        return path if is_torch or path else None
    below = f"{path}."
    others = {name.removeprefix(below) for name in tensors.values() if name.startswith(below)} - set(own)
    is_child = path.startswith(f"{node.module_path}." if node.module_path else "")
    return path if path and is_child and not others - {"num_batches_tracked"} else None
