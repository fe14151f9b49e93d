"""A program as a model in JAX, and as the reference of another model, without torch."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from jaxlstm.check.cases.case import Array, Case, LayerRecord, Results, is_floating
from jaxlstm.check.cases.rounding import Rounding
from jaxlstm.check.exceptions import PORT_EXCEPTIONS, describe
from jaxlstm.check.reference.jax_model import Call, JaxModel, ModelRunner
from jaxlstm.check.reference.jax_runs import jax_settings, to_numpy
from jaxlstm.check.reference.oracle_lstm import OracleLSTM
from jaxlstm.check.reference.torch_model import STATISTICS, TorchModel
from jaxlstm.programs.graph import Graph, ModuleCall, Node, Site, results_of, rewrite, uses_of, values_in
from jaxlstm.programs.operators.sizes import ASSERTIONS
from jaxlstm.programs.passes.double_precision import in_double_precision
from jaxlstm.programs.program import Program

Tensors = Mapping[str, Array]
_PRECISION = "highest"


def with_exact_sizes(program: Program) -> Program:
    """Return a program that has torch's sizes, and therefore runs eagerly if they depend on values."""
    program = copy.copy(program)
    program.options = replace(program.options, exact_sizes=True)
    return program


class ProgramModel(JaxModel):
    """A program, in its own dtypes or in float64."""

    name = "Program"

    def __init__(self, program: Program, call: Callable[..., Any] | None = None) -> None:
        """Wrap a program; ``call`` is called with it, its parameters bound, and the arguments."""
        self.program, self.call = with_exact_sizes(program), call

    def call_in(self, dtype: Any) -> Call:
        """Return the program with its parameters, buffers and graph in float64 if ``dtype`` is float64."""
        program = self.program_in(dtype)
        params, buffers = (
            {name: a for name, a in to_numpy(arrays).items() if is_floating(a)}
            for arrays in (program.params, program.buffers)
        )

        def function(overrides: Mapping[str, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
            weights, statistics = (
                {name: overrides.get(name, a) for name, a in arrays.items()}
                for arrays in (program.params, program.buffers)
            )
            model = functools.partial(program, weights, buffers=statistics)
            return self.call(model, *args, **kwargs) if self.call else model(*args, **kwargs)

        return Call(function, params, buffers)

    def program_in(self, dtype: Any) -> Program:
        """Return the program in float64, or as it is for any other ``dtype``."""
        if dtype is None or np.dtype(dtype) != np.float64:
            return self.program
        return in_double_precision(self.program)


class ProgramReference:
    """A program in its own dtype and in float64, with the methods of ``TorchModel``."""

    name, module_name = "program", "the program"
    chaotic = math.inf
    was_training = False

    def __init__(self, program: Program, example: Case) -> None:
        """Take a program and an example of its arguments; cases differ from it only in their arrays."""
        self._model = ProgramModel(program)
        dtypes = [array.dtype for array in (*program.params.values(), *example.arrays.values())]
        floats = (np.dtype(dtype) for dtype in dtypes if is_floating(np.empty(0, dtype)))
        self.dtype = next(floats, np.dtype(np.float32))

        def runner(dtype: Any) -> ModelRunner:
            is_double = dtype == np.float64
            return ModelRunner(self._model, example, dtype, cast_model=is_double, precision=_PRECISION)

        self._runners = {dtype: runner(dtype) for dtype in {self.dtype, np.dtype(np.float64)}}
        rewritten = _with_tanh_of_xla(self._model.program)
        self._with_tanh = ProgramReference(rewritten, example) if rewritten else None

    def params(self) -> Tensors:
        """Return the parameters by name. A tied parameter appears once."""
        return to_numpy(self._model.program.params)

    def statistics(self) -> Tensors:
        """Return the running statistics by name."""
        buffers = to_numpy(self._model.program.buffers)
        return {name: a for name, a in buffers.items() if name.endswith(STATISTICS)}

    def moved(self, values: Tensors) -> ProgramReference:
        """Return the reference with other values of some parameters and statistics."""
        clone = copy.copy(self)
        clone._runners = {dtype: runner.moved(values) for dtype, runner in self._runners.items()}
        clone._with_tanh = self._with_tanh.moved(values) if self._with_tanh else None
        return clone

    def run(self, case: Case, dtype: Any = np.float64, *, gradients: bool = False) -> Results:
        """Run the program on a case in ``dtype``, its own or float64."""
        return self._runners[np.dtype(dtype)].run(case.astype(dtype), gradients=gradients)

    def refusal(self, case: Case) -> str:
        """Return the exception that the program raises for a case, or an empty string."""
        # Conditions on values, such as the range of an index, are checked outside of jit only.
        checked = {*ASSERTIONS, "jaxlstm.pack_padded.default", *_INDEXING}
        has_conditions = any(node.op in checked for node in self._model.program.graph.nodes)
        try:
            self._float64.attempt(case, eagerly=has_conditions)
        except PORT_EXCEPTIONS as error:
            return describe(error)
        return ""

    def right_runs(self, case: Case, dtype: Any, *, gradients: bool) -> list[Results]:
        """Return the results of the program, and with XLA's tanh, which ports use."""
        with_tanh = self._with_tanh.right_runs(case, dtype, gradients=gradients) if self._with_tanh else []
        return [self.run(case, dtype, gradients=gradients), *with_tanh]

    def perturbed(self, case: Case, rounding: Rounding, *, gradients: bool) -> Results:
        """Return the float64 results after a change of every number of the call."""
        weights = {name: rounding.of_weight(a) for name, a in self._float64.arrays().items()}
        return self._float64.moved(weights).run(rounding.of_case(case), gradients=gradients)

    def with_other_tables(
        self, case: Case, rng: np.random.Generator, *, weights: bool = False
    ) -> tuple[list[str], Results] | None:
        """Change every number of the tables by rounding; return their names and the float64 results."""
        size = float(np.finfo(self.dtype).eps) if self.dtype.kind == "f" else 0.0
        params = self._model.program.params
        tables = {
            name: a + size * np.max(np.abs(a), initial=0.0) * rng.choice([-1.0, 1.0], a.shape)
            for name, a in self._float64.arrays().items()
            if weights or not (name in params or name.endswith(STATISTICS))
        }
        return (list(tables), self._float64.moved(tables).run(case)) if tables else None

    def layers(self, case: Case, dtype: Any) -> list[LayerRecord]:
        """Return every call of a module below the outermost, in the order in which they return.

        The outputs of a call are the values that the rest of the graph uses, in the order of the graph.
        """
        with jax_settings(dtype, _PRECISION):
            program = self._model.program_in(dtype)
            args, kwargs = case.call(jax.device_put(dict(case.astype(dtype).arrays)))
            values = program.evaluate(program.params, *args, record=lambda node, result: None, **kwargs)
            arrays = {name: np.asarray(a) for name, a in values.items() if isinstance(a, jax.Array)}
        return list(_module_calls(program.graph, arrays))

    @property
    def _float64(self) -> ModelRunner:
        return self._runners[np.dtype(np.float64)]


_INDEXING = ("aten.index.Tensor", "aten.index_select.default", "aten.gather.default")


def _with_tanh_of_xla(program: Program) -> Program | None:
    """Return a program that computes tanh as ``jnp.tanh``; None if it has no tanh."""
    graph = rewrite(program.graph, _tanh_of_xla)
    if graph == program.graph:
        return None
    tensors = {**program.params, **program.buffers, **program.constants}
    arrays = {name: np.asarray(a, program.dtypes[name]) for name, a in tensors.items()}
    rewritten = Program(graph, arrays)
    rewritten.options = program.options
    return rewritten


def _tanh_of_xla(node: Node, site: Site) -> Node | None:
    return replace(node, op="jaxlstm.tanh.default") if node.op == "aten.tanh.default" else None


def _modules_around(node: Node) -> list[ModuleCall]:
    """Return the calls of modules around a node, without calls of their methods."""
    return [call for call in node.calls if not call.method]


def _module_calls(graph: Graph, arrays: Mapping[str, Array]) -> Iterator[LayerRecord]:
    """Yield the calls of modules in a graph, with the arrays that they take and return."""
    calls: dict[tuple[str, ...], list[int]] = {}
    users: dict[str, set[int]] = {}
    for position, node in enumerate(graph.nodes):
        keys = tuple(call.key for call in _modules_around(node))
        for depth in range(2, len(keys) + 1):
            calls.setdefault(keys[:depth], []).append(position)
        for name in uses_of(node):
            users.setdefault(name, set()).add(position)
    for name in values_in(graph.outputs):
        users.setdefault(name, set()).add(len(graph.nodes))
    weights = {*graph.parameters, *graph.buffers, *graph.constants}
    for keys, positions in sorted(calls.items(), key=lambda item: (item[1][-1], -len(item[0]))):
        nodes = [graph.nodes[position] for position in positions]
        inner = dict.fromkeys(name for node in nodes for name in results_of(node))
        operands = dict.fromkeys(name for node in nodes for name in uses_of(node))
        inputs = [arrays[n] for n in operands if n in arrays and n not in inner and n not in weights]
        outputs = [arrays[n] for n in inner if n in arrays and not users.get(n, set()) <= {*positions}]
        call = _modules_around(nodes[0])[len(keys) - 1]
        if outputs:
            kind = call.class_name.rpartition(".")[2]
            yield LayerRecord(call.path, kind, tuple(inputs), tuple(outputs))


Reference = OracleLSTM | TorchModel | ProgramReference
"""A right implementation of a subject: the oracle, torch's LSTM (a subclass), a torch module or a program.

Each runs and perturbs a case as :class:`OracleLSTM` does. ``dtype`` is the dtype of its parameters, None if
it runs in any; ``chaotic`` is the amplification of one ulp above which RMS errors are a matter of chance.
"""
