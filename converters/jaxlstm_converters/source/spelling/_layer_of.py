"""The layer of Flax or of this library that replaces a module of torch."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import replace

from jaxlstm.programs.graph import Node, TensorType
from jaxlstm_converters.source.spelling.layers import RULES, TORCH, LayerSpelling
from jaxlstm_converters.source.spelling.template import Expression, filled
from jaxlstm_converters.source.spelling.typed_node import TypedNode


def layer_of(
    node: Node,
    types: Mapping[str, TensorType],
    tensors: Mapping[str, str],
    producers: Mapping[str, Node] | None = None,
) -> LayerSpelling | None:
    """Return the layer that computes a node, or None.

    The weights must be the tensors of one module: of the calling module if it is one of torch's own, or of a
    child that has no others. :func:`jaxlstm.load_state_dict` fills the layer with them.

    Args:
      node: a call of an operator.
      types: the types of the tensors of the graph, by name of value.
      tensors: parameters and buffers of the graph: name of the value -> name in torch.
      producers: the node that makes a value, by name of the value, to recognize initial states of zeros.
    """
    operation = TypedNode(node, types)
    rule = RULES.get(operation.name)
    layer = rule(operation, producers or {}) if rule else None
    if layer is None:
        return None
    path = _path(node, layer.tensors, tensors)
    return None if path is None else replace(layer, path=path)


def spell_call(layer: LayerSpelling, node: Node, receiver: ast.expr, expression: Expression) -> ast.expr:
    """Return the call of a layer: ``receiver`` is the tree of the module, for example ``self.conv``."""
    arguments = TypedNode(node, {}).arguments
    return filled(layer.call, {**arguments, "layer": receiver}, expression)


def _path(node: Node, own: Mapping[str, str], tensors: Mapping[str, str]) -> str | None:
    """Return the path of the module that holds the tensors of a layer under their names."""
    is_torch = bool(node.calls) and node.calls[-1].class_name.startswith(TORCH)
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
        return path if is_torch else None
    below = f"{path}."
    others = {name.removeprefix(below) for name in tensors.values() if name.startswith(below)} - set(own)
    is_child = path.startswith(f"{node.module_path}." if node.module_path else "")
    return path if path and is_child and not others - {"num_batches_tracked"} else None
