"""Modules of torch's attention as ``nnx.MultiHeadAttention``, where neither weights nor masks prevent it."""

from collections.abc import Mapping, Sequence

import numpy as np

from jaxlstm.programs.graph import Node, TensorType, Value, results_of, uses_of
from jaxlstm_converters.source.graph.calls import Invocation
from jaxlstm_converters.source.spelling.layers import TORCH, LayerSpelling, drop_rate
from jaxlstm_converters.source.spelling.typed_node import TypedNode

_LINEAR, _BMM = "aten.linear.default", "aten.bmm.default"
_FUSED = "aten.scaled_dot_product_attention.default"
_CORES = ([_FUSED], [_BMM, "aten.softmax.int", _BMM])
_LAYOUT = (
    "view reshape transpose permute unflatten unsqueeze squeeze contiguous select split_with_sizes chunk"
)
_OTHERS = {f"aten.{name}" for name in f"{_LAYOUT} mul dropout".split()}
_TENSORS = ("in_proj_weight", "out_proj.weight", "in_proj_bias", "out_proj.bias")


def attention_layers(
    calls: Sequence[Invocation], types: Mapping[str, TensorType], owners: Mapping[str, str]
) -> dict[str, LayerSpelling]:
    """Return the last node of each call of attention -> the layer, for modules whose calls are all layers.

    The class tells how torch's code splits and joins the heads. Masks that may leave a query without keys,
    weights among the results and separate projections are other operators and tensors than Flax's layer has.
    """
    found: dict[str, dict[str, LayerSpelling | None]] = {}
    for call in (call for call in calls if call.class_name == f"{TORCH}activation.MultiheadAttention"):
        nodes = [item for item in call.body if isinstance(item, Node)]
        layer = _layer(call, nodes, types, owners) if len(nodes) == len(call.body) > 0 else None
        found.setdefault(call.path, {})[nodes[-1].name if nodes else ""] = layer
    whole = (layers for layers in found.values() if all(layers.values()))
    return {name: layer for layers in whole for name, layer in layers.items() if layer}


def _layer(
    call: Invocation, nodes: Sequence[Node], types: Mapping[str, TensorType], owners: Mapping[str, str]
) -> LayerSpelling | None:
    made = {name: node for node in nodes for name in results_of(node)}
    used = {
        name: owners[name].removeprefix(f"{call.path}.")
        for n in nodes
        for name in uses_of(n)
        if name in owners
    }
    core = [node for node in nodes if node.op != _LINEAR and node.op.rpartition(".")[0] not in _OTHERS]
    if (
        [node.op for node in core] not in _CORES
        or {*used.values()} not in ({*_TENSORS}, {*_TENSORS[:2]})
        or call.outputs != tuple(results_of(nodes[-1]))
        or len({node.with_gradient for node in nodes}) > 1
        or not all(t and t.dtype in (np.float32, np.float64) for t in map(types.get, (*made, *used)))
    ):
        return None
    tensors, first = {name: value for value, name in used.items()}, TypedNode(core[0], types)
    query = first.tensors("query" if core[0].op == _FUSED else "self")[0]
    inputs = [next(iter(uses_of(node))) for node in nodes if node.op == _LINEAR][:-1]
    operands, parts = dict[str, Value](), list[str]()
    for letter, name in zip("qkv", inputs, strict=False):
        turned = made.get(name)
        operand = next(uses_of(turned)) if turned else name
        operands[letter] = Value(operand)
        parts.append(letter if turned else f"{letter}.swapaxes(0, 1)")
        if (turned and not _turns(turned)) or operand in made or operand not in types or operand in owners:
            return None
    is_causal = core[0].op == _FUSED and first["is_causal"]
    is_masked = core[0].op == _FUSED and (first["attn_mask"] is not None or (is_causal and len(parts) > 1))
    parts += [f"mask=nnx.make_causal_mask({parts[0]}[..., 0])"] * is_causal
    width, features = query.shape[-1], types[tensors["in_proj_weight"]].shape[1]
    if is_masked or not isinstance(width, int) or not isinstance(features, int):
        return None
    rate = next(filter(None, map(drop_rate, nodes)), 0)
    return LayerSpelling(
        "nnx.MultiHeadAttention",
        {"num_heads": features // width, "in_features": features},
        {"decode": False}
        | ({"use_bias": False} if len(tensors) == 2 else {})
        | ({"dropout_rate": rate, "broadcast_dropout": False} if rate else {}),
        f"layer({', '.join(parts)})" + ".swapaxes(0, 1)" * (not _turns(nodes[-1])),
        tensors,
        call.path,
        consumed=tuple(name for name in made if name not in call.outputs),
        operands=operands,
    )


def _turns(node: Node) -> bool:
    """Return True for a node that exchanges the batch and the time."""
    return node.op == "aten.transpose.int" and {node.kwargs["dim0"], node.kwargs["dim1"]} == {0, 1}
