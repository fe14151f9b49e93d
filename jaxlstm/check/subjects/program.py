"""A program under test: node by node, against torch's operators on the same graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from jaxlstm.check.cases.case import Case, is_floating
from jaxlstm.check.criteria.difference import EQUAL, distance, shape_of
from jaxlstm.check.reference.torch_layers import run_graph
from jaxlstm.check.report.item import LayerDifference
from jaxlstm.check.subjects.function import Call, CheckedModel, cast, jax_settings
from jaxlstm.programs.graph import Graph, Node, TensorType
from jaxlstm.programs.inputs import bind_inputs
from jaxlstm.programs.operators.registry import find_operator
from jaxlstm.programs.program import Program


class ProgramModel(CheckedModel):
    """A program, in its own dtypes or in float64."""

    name = "Program"

    def __init__(self, program: Program) -> None:
        """Wrap a program."""
        self._program = program

    def call_in(self, dtype: Any) -> Call:
        """Return the program with its parameters, buffers and graph in float64 if ``dtype`` is float64."""
        program = self.program_in(dtype)
        params = {name: np.asarray(a) for name, a in program.params.items()}
        floating = {name: a for name, a in params.items() if is_floating(a)}
        return Call(lambda p, args, kwargs: program({**params, **p}, *args, **kwargs), floating)

    def program_in(self, dtype: Any) -> Program:
        """Return the program in float64, or as it is for any other ``dtype``."""
        program = self._program
        if dtype is None or np.dtype(dtype) != np.float64:
            return program
        tensors = {**program.params, **program.buffers, **program.constants}
        arrays = {name: cast(np.asarray(a), dtype) for name, a in tensors.items()}
        in_64 = Program(in_float64(program.graph), arrays)
        in_64.options = program.options
        return in_64

    def nodes(self, case: Case, precision: str | None) -> list[LayerDifference]:
        """Compare each node with torch's operator in float64, in the order of the graph.

        Both sides start from the same inputs, so that the first node that differs is the wrong one.
        """
        ours: dict[str, Sequence[np.ndarray]] = {}
        with jax_settings(np.float64, precision):
            program = self.program_in(np.float64)
            args, kwargs = case.call(jax.device_put(dict(case.astype(np.float64).arrays)))

            def record(node: Node, result: Any) -> None:
                ours[node.name] = _arrays(result)

            program.evaluate(program.params, *args, record=record, **kwargs)
            tensors = {**program.params, **program.buffers, **program.constants}
            arrays = {name: np.asarray(a) for name, a in tensors.items()}
            inputs, _ = bind_inputs(program.graph, args, kwargs)
            values = {name: np.asarray(a) for name, a in inputs.items()}
        theirs = run_graph(program.graph, arrays, values)
        return [
            _difference(node, ours[node.name], theirs[node.name])
            for node in program.graph.nodes
            if node.name in theirs and ours.get(node.name)
        ]


def _difference(node: Node, ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> LayerDifference:
    where = f"{node.name} in {node.module_path}" if node.module_path else node.name
    return LayerDifference(
        where, where, node.op, shape_of(theirs), shape_of(ours), 0.0, distance(ours, theirs), EQUAL
    )


def _arrays(result: Any) -> list[np.ndarray]:
    leaves = jax.tree.leaves(result)
    return [np.asarray(a) for a in leaves if isinstance(a, jax.Array)]


def in_float64(graph: Graph) -> Graph:
    """Return the graph with every dtype among floating-point types and arguments replaced by float64."""
    return replace(
        graph,
        inputs=tuple(replace(i, type=i.type and _type(i.type)) for i in graph.inputs),
        nodes=tuple(_node(node) for node in graph.nodes),
    )


def _node(node: Node) -> Node:
    kwargs = {name: _argument(value) for name, value in node.kwargs.items()}
    types = {name: _type(type_) for name, type_ in node.types.items()}
    operator = find_operator(node.op)
    is_floating = any(type_.dtype == np.float64 for type_ in types.values())
    if operator is not None and operator.creates and kwargs.get("dtype") is None and is_floating:
        kwargs["dtype"] = np.dtype(np.float64)
    return replace(node, kwargs=kwargs, args=tuple(map(_argument, node.args)), types=types)


def _type(type_: TensorType) -> TensorType:
    return replace(type_, dtype=_argument(type_.dtype))


def _argument(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_argument, value))
    if isinstance(value, Graph):
        return in_float64(value)
    if isinstance(value, np.dtype) and (value.kind == "f" or value.name == "bfloat16"):
        return np.dtype(np.float64)
    return value
