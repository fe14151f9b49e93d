"""Graphs of live torch functions, without a file: from ``torch.export`` or from ``make_fx``."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from jaxlstm.programs.graph import Argument, Graph, Input, Node, TensorType, Tree, Value
from jaxlstm.programs.program import Program


def program_of(
    module: torch.nn.Module, args: tuple, kwargs: dict[str, Any] | None = None, **options: Any
) -> Program:
    """Export a module and return it as a program."""
    with warnings.catch_warnings():
        # torch warns that nn.LSTM assigns its own weights during the export.
        warnings.filterwarnings("ignore", "The tensor attribute.*assigned during export", UserWarning)
        return program_from(torch.export.export(module, args, kwargs, **options))


def program_from(exported: torch.export.ExportedProgram) -> Program:
    """Return the program of an exported program."""
    signature = exported.graph_signature
    constants = {**signature.inputs_to_lifted_tensor_constants}
    buffers = dict(signature.inputs_to_buffers)
    tensors = {name: to_numpy(t) for name, t in {**exported.state_dict, **exported.constants}.items()}
    skip = {*signature.inputs_to_parameters, *buffers, *constants}
    spec = exported.call_spec
    graph = _graph(
        exported.graph,
        parameters=dict(signature.inputs_to_parameters),
        buffers=buffers,
        constants=constants,
        skip=skip,
        in_tree=_tree(spec.in_spec),
        out_tree=_tree(spec.out_spec),
        mutations={name: Value(value) for value, name in signature.buffers_to_mutate.items()},
        ranges={
            str(symbol): (int(r.lower), None if r.upper > 2**62 else int(r.upper))
            for symbol, r in exported.range_constraints.items()
        },
    )
    return Program(graph, tensors)


def program_of_function(function: Callable[..., Any], args: Sequence[torch.Tensor]) -> Program:
    """Trace a function of tensors and return it as a program."""
    traced = make_fx(function, pre_dispatch=True)(*args)
    names = {node.name: str(node.target) for node in traced.graph.nodes if node.op == "get_attr"}
    constants = {name: to_numpy(getattr(traced, name)) for name in names.values()}
    with torch.no_grad():
        results = function(*args)
    structure = pytree.tree_structure(results)
    graph = _graph(
        traced.graph,
        constants=names,
        in_tree=_tree(pytree.tree_structure((tuple(args), {}))),
        out_tree=_tree(structure),
    )
    return Program(graph, constants)


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """Return a tensor as a NumPy array, bfloat16 included."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy().view(numpy_dtype(torch.bfloat16))
    # Gradients that are zero everywhere may have no memory in torch.
    return tensor.numpy(force=True)


def numpy_dtype(dtype: torch.dtype) -> np.dtype:
    """Return the NumPy dtype of a torch dtype."""
    return np.dtype(str(dtype).removeprefix("torch."))


def _graph(fx: torch.fx.Graph, *, skip: set[str] = frozenset(), **fields: Any) -> Graph:  # type: ignore[assignment]
    items = {
        (node.args[0].name, node.args[1]): node.name
        for node in fx.nodes
        if node.op == "call_function" and node.target is operator.getitem
    }
    inputs = []
    nodes: list[Node] = []
    outputs: tuple[Argument, ...] = ()
    for node in fx.nodes:
        if node.op == "placeholder" and node.name not in skip:
            meta = node.meta.get("val")
            is_tensor = isinstance(meta, torch.Tensor)
            inputs.append(Input(node.name, _type(meta) if is_tensor else None, None if is_tensor else meta))
        elif node.op == "call_function" and node.target is not operator.getitem:
            nodes.append(_node(node, items))
        elif node.op == "output":
            outputs = tuple(_argument(leaf) for leaf in pytree.tree_leaves(node.args[0], lambda x: x is None))
    fields = {"parameters": {}, "buffers": {}, "constants": {}, **fields}
    return Graph(inputs=tuple(inputs), nodes=tuple(nodes), outputs=outputs, **fields)


def _node(node: torch.fx.Node, items: dict[tuple[str, int], str]) -> Node:
    meta: Any = node.meta.get("val")
    types = {}
    if isinstance(meta, torch.Tensor):
        types[node.name] = _type(meta)
    stack = [entry[0] for entry in node.meta.get("nn_module_stack", {}).values()]
    module_path = stack[-1] if stack and not stack[-1].startswith("_empty_nn_module_stack") else ""
    if not isinstance(node.target, torch._ops.OpOverload):
        function: Any = node.target
        name = f"{function.__module__}.{function.__name__}"
        args = tuple(_argument(argument) for argument in node.args)
        return Node(node.name, name, args, {}, (node.name,), module_path)
    schema = node.target._schema
    kwargs = {
        argument.name: _argument(value) for argument, value in zip(schema.arguments, node.args, strict=False)
    }
    kwargs |= {name: _argument(value) for name, value in node.kwargs.items()}
    is_list = len(schema.returns) == 1 and str(schema.returns[0].type) == "List[Tensor]"
    outputs: tuple = (node.name,)
    if len(schema.returns) == 0:
        outputs = ()
    elif is_list or len(schema.returns) > 1:
        count = len(meta)
        names = tuple(items.get((node.name, index)) for index in range(count))
        types = {n: _type(m) for n, m in zip(names, meta, strict=True) if n and isinstance(m, torch.Tensor)}
        if is_list:
            names = (tuple(n or f"{node.name}__{i}" for i, n in enumerate(names)),)
        outputs = names
    name = str(node.target)
    return Node(node.name, name, (), kwargs, outputs, module_path, types)


def _argument(argument: Any) -> Argument:
    if isinstance(argument, torch.fx.Node):
        return Value(argument.name)
    if isinstance(argument, list | tuple):
        return tuple(_argument(item) for item in argument)
    if isinstance(argument, torch.dtype):
        return numpy_dtype(argument)
    if isinstance(argument, torch.device | torch.layout | torch.memory_format):
        return None
    return argument


def _type(meta: torch.Tensor) -> TensorType:
    return TensorType(numpy_dtype(meta.dtype), tuple(_size(size) for size in meta.shape))


def _size(size: Any) -> int | str | None:
    if isinstance(size, int):
        return size
    text = str(size)
    return text if text.isidentifier() else None


def _tree(spec: Any) -> Tree:
    if spec.type is None:
        return Tree("leaf")
    if spec.type is type(None):
        return Tree("none")
    children = tuple(_tree(child) for child in spec.children())
    if spec.type in (tuple, list):
        return Tree(spec.type.__name__, children)
    if spec.type is dict:
        return Tree("dict", children, tuple(spec.context))
    return Tree("namedtuple", children, spec.context._fields, spec.context.__name__)
