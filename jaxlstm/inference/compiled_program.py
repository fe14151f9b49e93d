"""``CompiledProgram``: a whole program with its weights on a device, and its executables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any

import jax
import numpy as np
from jaxlib import xla_client

from jaxlstm._shared.jaxprs import equations
from jaxlstm.inference.engine import Recent, WorkCounter
from jaxlstm.inference.host_arrays import one_device
from jaxlstm.inference.padding import ARRAY, leaves_of, split_leaves
from jaxlstm.layer.config import positive_int
from jaxlstm.programs import tree
from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.graph import TensorType, Value
from jaxlstm.programs.inputs import as_arguments
from jaxlstm.programs.operators.dtypes import held, held_without_loss
from jaxlstm.programs.program import Program

Shape = tuple[int, ...]

CONSTANTS = 256 * 2**20
"""Bytes of weights that the executables of a program hold as constants, on CPUs.

XLA lays constants out once, and arguments in each call. Each executable has a copy. Beyond this limit, and in
programs with more than an eighth of it, weights are arguments.
"""
MANY_TERMS = 1 << 14
"""The number of terms of a sum from which YNNPACK is faster than XLA's own loops."""
EXECUTABLES = 64
"""Default number of executables that a ProgramRunner keeps."""


class CompiledProgram:
    """A program compiled for the shapes that were used last. Threads may share it.

    Attributes:
      tensors: name and type of each input that is a tensor.
      work: the counts of compilations and calls.
    """

    def __init__(
        self, program: Program, executables: int, device: Any, work: WorkCounter | None = None
    ) -> None:
        self.program, self.device = program, one_device(device)
        self.tensors = [*program.graph.input_types.items()]
        self.work = work or WorkCounter()
        self._most = positive_int("executables", executables)
        native = self.device.platform == "cpu" and program.options.backend != "scan"
        self._form = program.for_inference() if native else program.with_options()
        self._computes_on = _inline_cpu() if self.device.platform == "cpu" else self.device
        self._weights = jax.device_put(self._form.params, self._computes_on)
        self._nbytes = sum(leaf.nbytes for leaf in program.params.values())
        self._executables = Recent(self._most)
        self._others = Recent(self._most)  # by the identity of a program's graph

    @cached_property
    def result_types(self) -> dict[str, TensorType]:
        """Name of a result -> type. A single result without a name is called "outputs"."""
        graph = self.program.graph
        types, scalar = graph.types, TensorType(np.dtype(int), ())
        outputs = [output.name if isinstance(output, Value) else "" for output in graph.outputs]
        names = tree.leaf_names(graph.out_tree)
        names = ["outputs"] if names == ["result"] else names
        return {name: types.get(output) or scalar for name, output in zip(names, outputs, strict=True)}

    def checked(self, tensors: Sequence[Any]) -> list[int]:
        """Check the shapes and dtypes of the tensors of a call, and return the places of those to cast."""
        if len(tensors) != len(self.tensors):
            names = [name for name, _ in self.tensors]
            raise ValueError(f"the program takes the tensors {names}, got {len(tensors)}")
        self.program.bind(*as_arguments(self.program.graph, tensors))
        dtypes = [(leaf.dtype, type_.dtype) for leaf, (_, type_) in zip(tensors, self.tensors, strict=True)]
        # Integers of fewer bits are accepted, too, and JAX may hold 64 bits in 32.
        return [k for k, (dtype, declared) in enumerate(dtypes) if dtype != declared or declared.itemsize > 4]

    def cast(self, arrays: list[Any], places: Sequence[int]) -> list[Any]:
        """Return arrays with the dtypes in which JAX holds the program's tensors."""
        for k in places:
            name, type_ = self.tensors[k]
            held_without_loss(arrays[k], f"input {name}")
            arrays[k] = arrays[k].astype(held(type_.dtype, f"input {name}"), copy=False)
        return arrays

    def executable(
        self, shapes: tuple[Shape, ...], lengths: np.ndarray | None, tensors: Sequence[Any]
    ) -> Executable:
        """Return the executable for tensors of these shapes. The least recently used one makes room."""
        key = shapes, lengths is not None
        return self._executables.get_or_make(key, lambda: self._compile(lengths, *tensors))

    def elsewhere(self, tensors: Sequence[Any], lengths: np.ndarray | None, error: ProgramError) -> list[Any]:
        """Return the results of another program of the module, which takes these sizes and values.

        A file without branches has no other program. Outside of ``jit``, its error names the value that
        differs, and a packed batch may end before its padding.
        """
        graph, is_alone = self.program.graph, self.program.at_sizes is None
        packs = any(node.op == "jaxlstm.pack_padded.default" for node in graph.nodes)
        if error.code == "guard" and (is_alone or packs):
            try:
                return [*map(on_host, leaves_of(self.program, self.program.params, tensors, lengths)[0])]
            except ProgramError as refused:
                if is_alone:
                    raise
                error = refused

        def run(program: Program) -> list[Any]:
            make = partial(CompiledProgram, program, self._most, self.device, self.work)
            compiled = self._others.get_or_make(id(program.graph), make)
            arrays = compiled.cast([*map(np.asarray, tensors)], compiled.checked(tensors))
            executable = compiled.executable(tuple(map(np.shape, arrays)), lengths, arrays)
            results = tree.unflatten(program.graph.out_tree, iter(executable.results((lengths, *arrays))))
            leaves = tree.flatten(graph.out_tree, results, "results")
            if not jax.tree_util.all_leaves(leaves):
                raise ProgramError("input-structure", "for these values, results have another structure")
            return leaves

        return self.program.elsewhere(*as_arguments(graph, tensors), error, run)

    def _compile(self, *arguments: Any) -> Executable:
        sharding = jax.sharding.SingleDeviceSharding(self._computes_on)
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), arguments)
        leaves: list[Any] = []

        def run(params: Any, lengths: Any, *tensors: Any) -> tuple[list[jax.Array], jax.Array | None]:
            results, valid = leaves_of(self._form, params, tensors, lengths)
            arrays, leaves[:] = split_leaves(results)
            return arrays, valid

        copies = 1 + sum(not executable.weights for executable in self._executables.values())
        on_cpu = self.device.platform == "cpu"
        bound: Any = run
        weights: tuple[Any, ...] = (self._weights,)
        if on_cpu and self._nbytes * max(8, copies) <= CONSTANTS:
            bound, weights = partial(run, self._weights), ()
        traced = jax.jit(bound).trace(*weights, *shapes)
        options = _cpu_options() if on_cpu and not adds_up_long_rows(traced.jaxpr.jaxpr) else {}
        compiled = traced.lower().compile(options)
        self.work.add_compilation()
        return Executable(compiled, weights, [] if set(leaves) <= {ARRAY} else leaves)


@cache
def _inline_cpu() -> Any:
    """Return a CPU device that computes on the thread of the caller, who waits for the results anyway.

    JAX's own CPU device hands a call to another thread. Waking that takes longer than a small program runs.
    """
    return xla_client.make_cpu_client(asynchronous=False).devices()[0]


@cache
def _cpu_options() -> dict[str, Any]:
    """Return compiler options with which XLA computes sums itself, and not with YNNPACK.

    A decoder with attention, 25 steps of (4, 64, 512), then takes 0.73 of the time on a Xeon with AMX. But
    XLA adds the elements of a row one by one: a norm of 64 rows of 512 takes 1.9 times as long, on Zen 4.
    """
    options: dict[str, Any] = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT"}
    try:
        jax.jit(lambda: 0).lower().compile(options)
    except jax.errors.JaxRuntimeError:  # this version of XLA has no such option
        return {}
    return options


def adds_up_long_rows(jaxpr: Any) -> bool:
    """Return True if a sum over the last axis has many terms."""
    sums = (e for e in equations(jaxpr) if e.primitive.name == "reduce_sum")
    operands = ((e.invars[0].aval, e.params["axes"]) for e in sums)
    return any(x.size > MANY_TERMS and x.ndim - 1 in axes for x, axes in operands)


@dataclass(frozen=True)
class Executable:
    """A program compiled for some shapes.

    Attributes:
      call: the function of weights, lengths and tensors. It returns arrays, and whether the assertions about
        values hold, if there are any.
      weights: the weights in a tuple; an empty tuple if they are constants.
      others: the results, with ARRAY for each array; empty if all are arrays.
    """

    call: Any
    weights: tuple[Any, ...]
    others: list[Any]

    def leaves(self, arguments: Sequence[Any]) -> list[Any]:
        """Return the leaves of the results, with arrays on the device.

        Raises:
          ProgramError: an assertion about values does not hold, or a value that the export fixed differs.
        """
        arrays, valid = self.call(*self.weights, *arguments)
        if valid is not None and not valid:
            raise ProgramError("guard", "a value that the export fixed differs, or an assertion fails")
        if not self.others:
            return arrays
        remaining = iter(arrays)
        return [next(remaining) if other is ARRAY else other for other in self.others]

    def results(self, arguments: Sequence[Any]) -> list[Any]:
        """Return the leaves of the results, with NumPy arrays, see :meth:`leaves`."""
        return [*map(on_host, self.leaves(arguments))]


def on_host(leaf: Any) -> Any:
    """Return a result as a NumPy array if it is an array."""
    return np.asarray(leaf) if isinstance(leaf, jax.Array) else leaf
