"""Graphs for tests of programs: written by hand, or traced from a function of torch tensors.

``make_fx`` traces a function quicker than an export.
"""

import operator
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from jaxlstm._shared.torch_tensors import tensor_to_numpy as to_numpy
from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.graph import Argument, Graph, Input, ModuleCall, Node, Size, TensorType, Tree, Value
from jaxlstm.programs.operators.registry import find_operator
from jaxlstm.programs.program import Program
from jaxlstm_converters.pt2.trace.decompositions import decomposed


def node(
    op: str,
    output: str | tuple | None = "y",
    *args: Argument,
    shape: Sequence[Size] | None = None,
    result_dtype: str = "float32",
    path: str = "",
    **kwargs: Argument,
) -> Node:
    """Return a node with one output, and its type if ``shape`` is given."""
    types = {} if shape is None else {str(output): TensorType(np.dtype(result_dtype), tuple(shape))}
    calls = (ModuleCall(path, path, "", ""),) if path else ()
    return Node(f"{output}", op, args, kwargs, () if output is None else (output,), calls, types)


def program(
    *nodes: Node,
    shape: Sequence[Size] = ("n", 3),
    dtype: str = "float32",
    output: str = "y",
    params: Mapping[str, np.ndarray] | None = None,
    **fields: Any,
) -> Program:
    """Return the program of nodes that map an input "x" to one result; parameters are named "p_" + name."""
    return Program(
        graph(*nodes, shape=shape, dtype=dtype, output=output, params=params or (), **fields), params or {}
    )


def graph(
    *nodes: Node,
    shape: Sequence[Size] = ("n", 3),
    dtype: str = "float32",
    output: str = "y",
    params: Iterable[str] = (),
    **fields: Any,
) -> Graph:
    """Return the graph of such a program, as a file may have it."""
    return Graph(
        parameters={f"p_{name}": name for name in params},
        inputs=(Input("x", TensorType(np.dtype(dtype), tuple(shape))),),
        nodes=nodes,
        outputs=(Value(output),),
        in_tree=Tree("tuple", (Tree("tuple", (Tree("leaf"),)), Tree("dict"))),
        out_tree=Tree("leaf"),
        **fields,
    )


def without_example(program: Program) -> Program:
    """Return a program as a file has it that does not record the sizes of its example."""
    inputs = tuple(replace(declared, example=()) for declared in program.graph.inputs)
    tensors = {**program.params, **program.buffers, **program.constants}
    arrays = {name: np.asarray(array) for name, array in tensors.items()}
    return Program(replace(program.graph, inputs=inputs), arrays)


X = Value("x")


def program_of_function(function: Callable[..., Any], args: Sequence[torch.Tensor]) -> Program:
    """Trace a function from tensors to a tuple of tensors, and return it as a program."""
    try:
        with decomposed():
            traced = make_fx(function, pre_dispatch=True)(*args)
    except RuntimeError as error:
        if "value out of a tracing tensor" not in str(error):
            raise
        raise ProgramError("unsupported-operator", "the parts of an operator read a value") from error
    by_kind: defaultdict[str, list[torch.fx.Node]] = defaultdict(list)
    for node in traced.graph.nodes:
        by_kind["item" if node.target is operator.getitem else node.op].append(node)
    constants = {node.name: str(node.target) for node in by_kind["get_attr"]}
    items: Any = {(node.args[0].name, node.args[1]): node.name for node in by_kind["item"]}  # type: ignore[union-attr]
    outputs: Any = by_kind["output"][0].args[0]
    graph = Graph(
        constants=constants,
        inputs=tuple(
            Input(node.name, _type(argument))
            for node, argument in zip(by_kind["placeholder"], args, strict=True)
        ),
        nodes=tuple(_node(node, items) for node in by_kind["call_function"]),
        outputs=tuple(map(_argument, outputs)),
        in_tree=Tree("tuple", (_tuple_of(len(args)), Tree("dict"))),
        out_tree=_tuple_of(len(outputs)),
    )
    return Program(graph, {name: to_numpy(getattr(traced, name)) for name in constants.values()})


def operator_function(name: str) -> Callable[..., Any]:
    """Return the function of an operator such as "aten.cat.default"."""
    operator = find_operator(name)
    assert operator is not None
    return operator.function


def _numpy_dtype(dtype: torch.dtype) -> np.dtype:
    return np.dtype(str(dtype).removeprefix("torch."))


def _type(tensor: torch.Tensor) -> TensorType:
    return TensorType(_numpy_dtype(tensor.dtype), tuple(tensor.shape))


def _tuple_of(count: int) -> Tree:
    return Tree("tuple", (Tree("leaf"),) * count)


def _node(node: torch.fx.Node, items: Mapping[tuple[str, int], str]) -> Node:
    """Return a node of a graph. ``items`` has the names of the items of its results."""
    operation: Any = node.target
    schema = operation._schema
    kwargs = {a.name: _argument(value) for a, value in zip(schema.arguments, node.args, strict=False)}
    kwargs |= {name: _argument(value) for name, value in node.kwargs.items()}
    meta: Any = node.meta.get("val")
    is_list = len(schema.returns) == 1 and str(schema.returns[0].type) == "List[Tensor]"
    outputs: tuple = (node.name,)[: len(schema.returns)]
    results = {node.name: meta}
    if is_list or len(schema.returns) > 1:
        outputs = tuple(items.get((node.name, index)) for index in range(len(meta)))
        results = dict(zip(outputs, meta, strict=True))
    types = {n: _type(m) for n, m in results.items() if n and isinstance(m, torch.Tensor)}
    if is_list:
        outputs = (tuple(name or f"{node.name}__{index}" for index, name in enumerate(outputs)),)
    return Node(node.name, str(operation), (), kwargs, outputs, (), types)


def _argument(argument: Any) -> Argument:
    if isinstance(argument, torch.fx.Node):
        return Value(argument.name)
    if isinstance(argument, list | tuple):
        return tuple(map(_argument, argument))
    if isinstance(argument, torch.dtype):
        return _numpy_dtype(argument)
    if isinstance(argument, torch.device | torch.layout | torch.memory_format):
        return None
    return argument
