"""``in_double_precision``: a program in float64."""

import math
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxlstm.programs.graph import Graph, Node, Site, TensorType, rewrite
from jaxlstm.programs.operators.registry import find_operator
from jaxlstm.programs.program import Program


def in_double_precision(program: Program) -> Program:
    """Return a program with its tensors, and the dtypes in its graph, in double precision.

    It runs with 64-bit JAX, in which an integer has the dtype that the graph records.
    """
    tensors = {**program.params, **program.buffers, **program.constants}
    arrays = {name: np.asarray(a, program.dtypes[name]) for name, a in tensors.items()}
    floats = {name: a for name, a in arrays.items() if jnp.issubdtype(a.dtype, jnp.floating)}
    arrays |= {name: a.astype(np.float64) for name, a in floats.items()}
    double = Program(_graph(program.graph), arrays)
    double.options = program.options
    return double


def _graph(graph: Graph) -> Graph:
    inputs = tuple(replace(i, type=i.type and _type(i.type)) for i in graph.inputs)
    return rewrite(replace(graph, inputs=inputs), _in_double_precision)


def _in_double_precision(node: Node, site: Site) -> Node:
    kwargs = {name: _argument(value) for name, value in node.kwargs.items()}
    types = {name: _type(type_) for name, type_ in node.types.items()}
    operator = find_operator(node.op)
    is_floating = any(type_.dtype == np.float64 for type_ in types.values())
    if operator is not None and operator.creates and kwargs.get("dtype") is None and is_floating:
        kwargs["dtype"] = np.dtype(np.float64)
    if node.op == "aten.rms_norm.default" and kwargs.get("eps") is None:  # It depends on the model's dtype.
        (result_type,) = node.types.values()
        kwargs["eps"] = float(jnp.finfo(result_type.dtype).eps)
    if node.op == "aten.softplus.default" and kwargs.get("threshold", 20) >= 20:
        kwargs["threshold"] = math.inf  # torch cuts softplus where float32 does not show it.
    return replace(node, kwargs=kwargs, args=tuple(map(_argument, node.args)), types=types)


def _type(type_: TensorType) -> TensorType:
    return replace(type_, dtype=_argument(type_.dtype))


def _argument(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_argument, value))
    if isinstance(value, Graph):
        return _graph(value)
    if isinstance(value, np.dtype) and value.kind == "c":
        return np.dtype(np.complex128)
    if isinstance(value, np.dtype) and (value.kind == "f" or value.name == "bfloat16"):
        return np.dtype(np.float64)
    return value
