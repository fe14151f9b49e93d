"""A program as the reference of a model, without torch."""

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from jaxlstm.check.cases.case import (
    Array,
    Case,
    LayerRecord,
    Results,
    Whole,
    is_floating,
    moved_by_rounding,
    named_outputs,
)
from jaxlstm.check.exceptions import PORT_EXCEPTIONS, describe
from jaxlstm.check.reference.jax_runs import (
    depends_on_values,
    jax_settings,
    jitted,
    split,
    to_numpy,
    with_gradients,
)
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


class ProgramReference:
    """A program in its own dtype and in float64, with the methods of ``TorchModel``."""

    name, module_name = "program", "the program"
    chaotic = math.inf
    was_training = False

    def __init__(self, program: Program, example: Case) -> None:
        """Take a program and an example of its arguments; cases differ from it only in their arrays."""
        program = with_exact_sizes(program)
        self._program, self._example = program, example
        dtypes = [array.dtype for array in (*program.params.values(), *example.arrays.values())]
        floats = (np.dtype(dtype) for dtype in dtypes if is_floating(np.empty(0, dtype)))
        self.dtype = next(floats, np.dtype(np.float32))
        with jax_settings(np.float64, _PRECISION):
            self._in_float64 = in_double_precision(program)
        functions = {dtype: self._function(self._of(dtype)) for dtype in {self.dtype, np.dtype(np.float64)}}
        self._forward = {dtype: jitted(function) for dtype, function in functions.items()}
        self._forward_and_back = {dtype: jitted(with_gradients(f)) for dtype, f in functions.items()}
        other = _with_tanh_of_xla(program)
        self._with_tanh = ProgramReference(other, example) if other else None

    def params(self) -> dict[str, Array]:
        """Return the parameters by name. A tied parameter appears once."""
        return to_numpy(self._program.params)

    def statistics(self) -> dict[str, Array]:
        """Return the running statistics by name."""
        return {n: a for n, a in to_numpy(self._program.buffers).items() if n.endswith(STATISTICS)}

    def moved(self, values: Tensors) -> "ProgramReference":
        """Return the reference with other values of some parameters and statistics."""
        other = copy.copy(self)
        other._program, other._in_float64 = (
            _with_values(program, values) for program in (self._program, self._in_float64)
        )
        other._with_tanh = self._with_tanh.moved(values) if self._with_tanh else None
        return other

    def run(self, case: Case, dtype: Any = np.float64, *, gradients: bool = False) -> Results:
        """Run the program on a case in ``dtype``, its own or float64."""
        program = self._of(dtype)
        return self._run(case, dtype, gradients, to_numpy(program.params), to_numpy(program.buffers))

    def refusal(self, case: Case) -> str:
        """Return the exception that the program raises for a case, or an empty string."""
        program = self._in_float64
        function = self._function(program)
        # Conditions on values are checked outside of jit only.
        checked = {*ASSERTIONS, "jaxlstm.pack_padded.default"}
        has_conditions = any(node.op in checked for node in program.graph.nodes)
        with jax_settings(np.float64, _PRECISION):
            floating, others = split(case, np.float64)
            arguments = dict(program.params), floating, {**others, "buffers": program.buffers}
            try:
                _try(function, arguments, eagerly=has_conditions)
            except PORT_EXCEPTIONS as error:
                return describe(error)
        return ""

    def right_runs(self, case: Case, dtype: Any, *, gradients: bool) -> list[Results]:
        """Return the results of the program, and with XLA's tanh, which ports use."""
        others = self._with_tanh.right_runs(case, dtype, gradients=gradients) if self._with_tanh else []
        return [self.run(case, dtype, gradients=gradients), *others]

    def perturbed(
        self,
        case: Case,
        size: float,
        rng: np.random.Generator,
        *,
        gradients: bool,
        whole: Whole = "except zeros",
    ) -> Results:
        """Return the float64 results after every number of the call has changed by a relative ``size``."""

        weights: Whole = "not" if whole == "not" else "except zeros"
        arrays = {**self._in_float64.params, **self._in_float64.buffers}
        moved = {name: moved_by_rounding(a, size, rng, weights) for name, a in arrays.items()}
        case = case.astype(np.float64).map_numbers(lambda a: moved_by_rounding(a, size, rng, whole))
        return self.moved(moved).run(case, gradients=gradients)

    def with_other_tables(
        self, case: Case, rng: np.random.Generator, *, weights: bool = False
    ) -> tuple[list[str], Results] | None:
        """Change every number of the tables by rounding; return their names and the float64 results."""
        arrays = [to_numpy(self._in_float64.params), to_numpy(self._in_float64.buffers)]
        size = float(np.finfo(self.dtype).eps) if self.dtype.kind == "f" else 0.0
        names = []
        for group, is_buffers in zip(arrays, (False, True), strict=True):
            for name, a in group.items():
                if is_floating(a) and (weights or (is_buffers and not name.endswith(STATISTICS))):
                    names.append(name)
                    largest = np.max(np.abs(a), initial=0.0)
                    group[name] = a + size * largest * rng.choice([-1.0, 1.0], a.shape)
        return (names, self._run(case, np.float64, False, *arrays)) if names else None

    def layers(self, case: Case, dtype: Any) -> list[LayerRecord]:
        """Return every call of a module below the outermost, in the order in which they return.

        The outputs of a call are the values that the rest of the graph uses, in the order of the graph.
        """
        program = self._of(dtype)
        with jax_settings(dtype, _PRECISION):
            args, kwargs = case.call(jax.device_put(dict(case.astype(dtype).arrays)))
            values = program.evaluate(program.params, *args, record=lambda node, result: None, **kwargs)
            arrays = {name: np.asarray(a) for name, a in values.items() if isinstance(a, jax.Array)}
        return list(_module_calls(program.graph, arrays))

    def _of(self, dtype: Any) -> Program:
        return self._in_float64 if np.dtype(dtype) == np.float64 else self._program

    def _function(self, program: Program) -> Any:
        def function(params: Any, floating: Any, others: Any) -> dict[str, Any]:
            args, kwargs = self._example.call({**floating, **others})
            return named_outputs(program(params, *args, buffers=others["buffers"], **kwargs))

        return function

    def _run(self, case: Case, dtype: Any, gradients: bool, params: Tensors, buffers: Tensors) -> Results:
        dtype = np.dtype(dtype)
        case = case.astype(dtype)
        with jax_settings(dtype, _PRECISION):
            floating, others = split(case, dtype)
            others["buffers"] = buffers
            if not gradients:
                return Results(to_numpy(self._forward[dtype](params, floating, others)))
            found = self._forward_and_back[dtype](params, floating, others, dict(case.cotangents))
            return Results(*map(to_numpy, found))


def _with_values(program: Program, values: Tensors) -> Program:
    other: Any = copy.copy(program)
    other.params, other.buffers = (
        {name: values[name].astype(a.dtype) if name in values else a for name, a in arrays.items()}
        for arrays in (program.params, program.buffers)
    )
    return other


def _with_tanh_of_xla(program: Program) -> Program | None:
    """Return a program that computes tanh as ``jnp.tanh``; None if it has no tanh."""
    graph = rewrite(program.graph, _tanh_of_xla)
    if graph == program.graph:
        return None
    tensors = {**program.params, **program.buffers, **program.constants}
    arrays = {name: np.asarray(a, program.dtypes[name]) for name, a in tensors.items()}
    other = Program(graph, arrays)
    other.options = program.options
    return other


def _tanh_of_xla(node: Node, site: Site) -> Node | None:
    return replace(node, op="jaxlstm.tanh.default") if node.op == "aten.tanh.default" else None


def _try(function: Any, arguments: tuple[Any, ...], *, eagerly: bool) -> None:
    """Call a function for its exceptions, without computing anything if it does not depend on values."""
    if not eagerly:
        try:
            jax.eval_shape(function, *arguments)
        except PORT_EXCEPTIONS as error:
            if not depends_on_values(error):
                raise
        else:
            return
    function(*arguments)


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
        taken = dict.fromkeys(name for node in nodes for name in uses_of(node))
        inputs = [arrays[n] for n in taken if n in arrays and n not in inner and n not in weights]
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
