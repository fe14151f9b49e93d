"""A program under test, node by node."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxlstm.check.cases.case import Case, is_floating
from jaxlstm.check.criteria.difference import EQUAL, distance, shape_of
from jaxlstm.check.reference.jax_runs import jax_settings
from jaxlstm.check.reference.program import with_exact_sizes
from jaxlstm.check.reference.torch_layers import run_graph
from jaxlstm.check.reference.torch_model import STATISTICS
from jaxlstm.check.report.item import LayerDifference
from jaxlstm.check.subjects.function import Call, CheckedModel
from jaxlstm.programs.graph import Node
from jaxlstm.programs.inputs import flatten_arguments
from jaxlstm.programs.passes.double_precision import in_double_precision
from jaxlstm.programs.program import Program


class ProgramModel(CheckedModel):
    """A program, in its own dtypes or in float64."""

    name = "Program"

    def __init__(self, program: Program, call: Callable[..., Any] | None = None) -> None:
        """Wrap a program; ``call`` is called with it, its parameters bound, and the arguments."""
        self._program, self._call = with_exact_sizes(program), call

    def call_in(self, dtype: Any) -> Call:
        """Return the program with its parameters, buffers and graph in float64 if ``dtype`` is float64."""
        program = self.program_in(dtype)
        params = {name: np.asarray(a) for name, a in program.params.items()}
        floating = {name: a for name, a in params.items() if is_floating(a)}
        buffers = {name: np.asarray(a) for name, a in program.buffers.items()}
        statistics = {name: a for name, a in buffers.items() if name.endswith(STATISTICS)}

        def function(given: Mapping[str, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
            own = {name: a for name, a in given.items() if name not in statistics}
            buffers = {name: given.get(name, a) for name, a in program.buffers.items()}
            model = functools.partial(program, {**params, **own}, buffers=buffers)
            return self._call(model, *args, **kwargs) if self._call else model(*args, **kwargs)

        return Call(function, floating, statistics)

    def program_in(self, dtype: Any) -> Program:
        """Return the program in float64, or as it is for any other ``dtype``."""
        if dtype is None or np.dtype(dtype) != np.float64:
            return self._program
        return in_double_precision(self._program)

    def nodes(self, case: Case, precision: str | None) -> list[LayerDifference]:
        """Compare each node with torch's operator in float64, in the order of the graph.

        Both sides start from the same inputs, so that the first node that differs is the wrong one.
        """
        if self._call is not None:
            return []
        ours: dict[str, Sequence[np.ndarray]] = {}
        with jax_settings(np.float64, precision):
            program = self.program_in(np.float64)
            args, kwargs = case.call(jax.device_put(dict(case.astype(np.float64).arrays)))

            def record(node: Node, result: Any) -> None:
                leaves = jax.tree.leaves(result)
                ours[node.name] = [np.asarray(a) for a in leaves if isinstance(a, jax.Array)]

            program.evaluate(program.params, *args, record=record, **kwargs)
            tensors = {**program.params, **program.buffers, **program.constants}
            arrays = {name: np.asarray(a) for name, a in tensors.items()}
            inputs, _ = program.bind(args, kwargs)
            values = {name: np.asarray(a) for name, a in inputs.items()}
        theirs = run_graph(program.graph, arrays, values)
        return [
            _difference(node, ours[node.name], theirs[node.name])
            for node in program.graph.nodes
            if node.name in theirs and ours.get(node.name)
        ]


def free_axes(program: Program, example: Case) -> list[tuple[tuple[str, int], ...]]:
    """Return the axes of the arrays of an example that share each free size of a program."""
    names = flatten_arguments(program.graph, *example.arguments)
    axes: dict[str, list[tuple[str, int]]] = {}
    for declared, place in zip(program.inputs, names, strict=True):
        for axis, size in enumerate(declared.type.shape if declared.type else ()):
            if isinstance(size, str):
                axes.setdefault(size, []).append((place.name, axis))
    return [tuple(group) for group in axes.values()]


def _difference(node: Node, ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> LayerDifference:
    where = f"{node.name} in {node.module_path}" if node.module_path else node.name
    return LayerDifference(
        where, where, node.op, shape_of(theirs), shape_of(ours), 0.0, distance(ours, theirs), EQUAL
    )
