"""Small graphs written by hand, without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxlstm.programs.graph import Argument, Graph, Input, Node, Size, TensorType, Tree, Value
from jaxlstm.programs.program import Program


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
    return Node(f"{output}", op, args, kwargs, () if output is None else (output,), path, types)


def program(
    *nodes: Node,
    shape: Sequence[Size] = ("n", 3),
    dtype: str = "float32",
    output: str = "y",
    params: Mapping[str, np.ndarray] | None = None,
    **fields: Any,
) -> Program:
    """Return the program of nodes that map an input "x" to one result; parameters are named "p_" + name."""
    params = params or {}
    graph = Graph(
        parameters={f"p_{name}": name for name in params},
        buffers={},
        constants={},
        inputs=(Input("x", TensorType(np.dtype(dtype), tuple(shape))),),
        nodes=nodes,
        outputs=(Value(output),),
        in_tree=Tree("tuple", (Tree("tuple", (Tree("leaf"),)), Tree("dict"))),
        out_tree=Tree("leaf"),
        **fields,
    )
    return Program(graph, params)


X = Value("x")
