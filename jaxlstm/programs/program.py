"""``Program``: a whole model, exported by torch, as a pure JAX function."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxlstm.layer import precision as precision_
from jaxlstm.layer.validate import require_backend
from jaxlstm.programs import tree
from jaxlstm.programs.acceptance import accept
from jaxlstm.programs.branches import in_branches
from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.example_values import ASSERTED
from jaxlstm.programs.graph import Graph, Input, Node, TensorType, Value
from jaxlstm.programs.inputs import as_arguments, bind_inputs, own_keywords, require_lstms, require_tensors
from jaxlstm.programs.interpreter import Steps
from jaxlstm.programs.listing import listing
from jaxlstm.programs.node_step import Values, resolve
from jaxlstm.programs.operators.dtypes import held_without_loss
from jaxlstm.programs.operators.indexing import if_valid
from jaxlstm.programs.operators.registry import OptionChanges, Options
from jaxlstm.programs.operators.sizes import ASSERTIONS
from jaxlstm.programs.passes.channels_last import channels_last
from jaxlstm.programs.passes.constant_casts import with_casts
from jaxlstm.programs.passes.fuse import fuse, prepare_weights
from jaxlstm.programs.passes.repeat_to_scan import repeat_to_scan
from jaxlstm.programs.passes.settle_sizes import settle_sizes
from jaxlstm.programs.sizes.guards import require_guards
from jaxlstm.programs.sizes.prefix import SIZE_OF, as_result


class FileWriter(Protocol):
    """A function that writes a file of programs by name: for each, its writer, parameters and buffers."""

    def __call__(self, path: Path, programs: Mapping[str, tuple[Any, Any]], *, overwrite: bool) -> None:
        """Write the file."""
        ...


_NOT_TAKEN = ("input-structure", "input-constant", "input-shape", "guard", "static-shape", "node-failed")
"""Errors about sizes, or about values that the export fixed."""


class Program:
    """A model exported by ``torch.export``, as a function of its parameters and inputs.

    ``program(params, *args, **kwargs)`` is pure. It works under ``jax.jit``, ``jax.grad``, ``jax.vmap`` and
    ``jax.export``, at any size of its free axes, and returns torch's structure of results. ``print(program)``
    lists the operators.

    Attributes:
      graph: the exported graph, without in-place operators.
      params: name in torch -> parameter. A tied parameter has its first name only, as in
        ``named_parameters`` of torch.
      tied: other name of a tied parameter -> first name.
      buffers: name in torch -> buffer, for example the running mean of a batch normalization.
      constants: name in torch -> constant of the graph.
      dtypes: name in torch -> dtype in the file; JAX may hold 64-bit integers in 32 bits.
      options: precision and backend, see :meth:`with_options`.
      at_sizes: runs the program that takes arguments of other sizes, given this program, the arguments, the
        error and a function that runs a program; None if this is the only program.

    >>> y = jax.jit(program)(program.params, x)  # doctest: +SKIP
    """

    def __init__(
        self,
        graph: Graph,
        tensors: Mapping[str, np.ndarray],
        *,
        write: FileWriter | None = None,
        example: Callable[[], list[np.ndarray] | None] | None = None,
        copy: bool = True,
    ) -> None:
        """Accept a graph with its parameters, buffers and constants, each under its name in torch.

        Args:
          graph: the exported graph.
          tensors: name in torch -> value.
          write: writes the file of :meth:`save`.
          example: returns the tensors of :attr:`example` in the order of the inputs, or None.
          copy: copy the values. False if nothing else writes to their memory, which JAX may then use.

        Raises:
          ProgramError: an operator is not supported, the model is in training mode, a tensor is missing, or
            a tensor is float64 without JAX's 64-bit mode.
        """
        graph, tensors = with_casts(graph, tensors)
        self.tied = _tied_names(graph.parameters, tensors)
        first_names = {value: self.tied.get(name, name) for value, name in graph.parameters.items()}
        graph = settle_sizes(replace(graph, parameters=first_names))
        self.options = Options()
        names = {**graph.parameters, **graph.buffers, **graph.constants}
        host_arrays = {value: np.asarray(tensors[name]) for value, name in names.items() if name in tensors}
        self._held = {value: TensorType(array.dtype, array.shape) for value, array in host_arrays.items()}
        graph, self._mutated = accept(graph, self._held)
        self.graph = graph
        self.params = _hold_tensors("parameter", graph.parameters, tensors, copy=copy)
        self.buffers = _hold_tensors("buffer", graph.buffers, tensors, copy=copy)
        self.constants = _hold_tensors("constant", graph.constants, tensors, copy=copy)
        arrays = {**self.params, **self.buffers, **self.constants}
        self.dtypes = {name: np.asarray(tensors[name]).dtype for name in arrays}
        self._in_order = Steps(graph)
        self._fast = channels_last(graph, arrays)
        self._steps = self._bound(self._fast)
        self._write, self._example = write, example
        self.at_sizes: Callable[..., Any] | None = None

    def _bound(self, graph: Graph) -> Steps:
        """Bind a graph for calls, with loops as scans."""
        with_loops = repeat_to_scan(graph, self._held)
        return self._in_order if with_loops is self.graph else Steps(with_loops)

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The inputs: name, dtype and shape, in which a string names a free axis."""
        return self.graph.inputs

    @property
    def example(self) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """The example of the export as (args, kwargs), with NumPy arrays; None if the file holds none."""
        tensors = self._example() if self._example else None
        return None if tensors is None else as_arguments(self.graph, tensors)

    @property
    def mutated_buffers(self) -> tuple[str, ...]:
        """The buffers that a call changes, see :meth:`call_with_buffers`."""
        return tuple(name for name in self.buffers if name in self.graph.mutations)

    @property
    def dropped_changes(self) -> tuple[str, ...]:
        """The parameters and constants that the module changes in place, and a call for itself only."""
        names = {**self.graph.parameters, **self.graph.constants}
        return tuple(name for value, name in names.items() if value in self._mutated)

    def __call__(
        self,
        params: Mapping[str, Any],
        *args: Any,
        buffers: Mapping[str, Any] | None = None,
        seq_lengths: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Run the program.

        Args:
          params: parameters with the names, shapes and dtypes of ``program.params``.
          args, kwargs: the arguments of the exported module's ``forward``.
          buffers: buffers as ``program.buffers``, which is the default.
          seq_lengths: number of valid steps of each sequence for the LSTMs, (batch,); or a dict from module
            path to such lengths. Steps after the end are ignored by an LSTM, and its outputs there are zero,
            as with a packed sequence.

        Returns:
          The results of ``forward``, in its structure. Sizes of axes are Python integers. Where ``jit`` hides
          a value that the export fixed, results are NaN (integers: the smallest number) if it differs.

        Raises:
          ProgramError: an argument does not fit. ``code`` says which check failed.
        """
        try:
            return self._call(params, args, kwargs, buffers, seq_lengths)[0]
        except ProgramError as error:
            raise error.with_traceback(None)  # noqa: B904 - without the frames of this package

    def call_with_buffers(
        self,
        params: Mapping[str, Any],
        *args: Any,
        buffers: Mapping[str, Any] | None = None,
        seq_lengths: Any = None,
        **kwargs: Any,
    ) -> tuple[Any, dict[str, jax.Array]]:
        """Run a program that changes its buffers and return (results, buffers after the call)."""
        try:
            return self._call(params, args, kwargs, buffers, seq_lengths)
        except ProgramError as error:
            raise error.with_traceback(None)  # noqa: B904 - without the frames of this package

    def _call(
        self,
        params: Mapping[str, Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        buffers: Mapping[str, Any] | None,
        seq_lengths: Any,
        branches: Callable[..., tuple[Program, ...]] | None = None,
    ) -> tuple[Any, dict[str, jax.Array]]:
        """Run this program, or another one that takes the arguments; ``branches`` returns the others."""
        branches = branches or getattr(self.at_sizes, "branches", None)
        given = params, args, kwargs, buffers, seq_lengths, branches
        kwargs, (buffers, seq_lengths) = own_keywords(
            self.graph, kwargs, buffers=buffers, seq_lengths=seq_lengths
        )
        settings = {"buffers": self.buffers if buffers is None else buffers, "seq_lengths": seq_lengths}

        def run(program: Program, is_valid: bool = False) -> tuple[Any, dict[str, Any], Any]:
            program = self._with_these_options(program)
            values = program.evaluate(params, *args, **{**settings, **kwargs})
            results, after, valid = program.results_of(values, is_valid)
            return tree.unflatten(program.graph.out_tree, iter(results)), after, valid

        try:
            results, after, valid = run(self)
        except ProgramError as error:
            return self.elsewhere(args, kwargs, error, lambda other: other._call(*given))
        if valid is not None and branches is not None and (others := branches(self, args, kwargs)):
            return in_branches((self, *others), run)
        return results, after

    def elsewhere(
        self,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        error: ProgramError,
        run: Callable[[Program], Any],
    ) -> Any:
        """Run another program of the module, which takes the arguments, or raise the error of this one."""
        if self.at_sizes is None or error.code not in _NOT_TAKEN:
            raise error
        return self.at_sizes(self, args, kwargs, error, lambda other: run(self._with_these_options(other)))

    def _with_these_options(self, program: Program) -> Program:
        program = copy.copy(program)
        program.options = self.options
        return program

    def results_of(
        self, values: Mapping[str, Any], is_valid: bool = False
    ) -> tuple[list[Any], dict[str, Any], jax.Array | None]:
        """Return the results, the buffers after the call, and whether the assertions hold, see `_assertions`.

        The results and changed buffers are NaN if they do not. With ``is_valid``, they are known to hold.
        """
        valid = None if is_valid else self._assertions(values)
        if valid is not None and not ASSERTED.get():
            raise ProgramError("node-failed", "the export of these sizes fixed values that jax.jit hides")
        graph = self._steps.graph
        exact = self.options.exact_sizes
        results = [_if_valid(o, as_result(resolve(o, values), exact=exact), valid) for o in graph.outputs]
        dtypes = {leaf.dtype for leaf in jax.tree.leaves(results) if isinstance(leaf, jax.Array)}
        if valid is not None and dtypes == {jnp.dtype(bool)}:
            raise ProgramError(
                "node-failed",
                "all results are booleans, which under jit cannot show that a fixed value differs or an "
                "assertion about values fails. Call the program outside of jit",
            )
        after = {name: values[value] for value, name in graph.buffers.items()}
        mutations = graph.mutations.items()
        after |= {name: _if_valid(value, resolve(value, values), valid) for name, value in mutations}
        return results, after, valid

    def _assertions(self, values: Mapping[str, Any]) -> jax.Array | None:
        """Return whether the assertions hold on values that ``jit`` hides; None if there are none."""
        nodes = [node for node in self._steps.graph.nodes if node.op in ASSERTIONS]
        arguments = [node.kwargs["self"] for node in nodes]
        asserted = [values.get(argument.name) for argument in arguments if isinstance(argument, Value)]
        asserted += [values.get(item.name) for item in self.inputs if item.type is None]
        asserted += [value for name, value in values.items() if name.startswith(SIZE_OF)]
        unknown = [jnp.all(value) for value in asserted if isinstance(value, Tracer)]
        return jnp.all(jnp.stack(unknown)) if unknown else None

    def evaluate(
        self,
        params: Mapping[str, Any],
        *args: Any,
        buffers: Mapping[str, Any] | None = None,
        seq_lengths: Any = None,
        record: Callable[[Node, Any], None] | None = None,
        **kwargs: Any,
    ) -> Values:
        """Run the program and return the values of the graph by name.

        ``record`` is called with each node and its result, in order; without it, values inside of loops and
        between convolutions may be missing, and values with the channels last have other names.
        """
        kwargs, (buffers, seq_lengths) = own_keywords(
            self.graph, kwargs, buffers=buffers, seq_lengths=seq_lengths
        )
        buffers = self.buffers if buffers is None else buffers
        require_tensors("params", params, self.params)
        require_tensors("buffers", buffers, self.buffers)
        require_lstms(self.graph, seq_lengths)
        inputs, sizes = self.bind(args, kwargs)
        values = Values(
            {
                **{value: jnp.asarray(params[name]) for value, name in self.graph.parameters.items()},
                **{value: jnp.asarray(buffers[name]) for value, name in self.graph.buffers.items()},
                **{value: self.constants[name] for value, name in self.graph.constants.items()},
                **inputs,
            }
        )
        values.is_traced = any(isinstance(value, Tracer) for value in values.values())
        options = replace(self.options, seq_lengths=seq_lengths, sizes=sizes)
        if record is None:
            self._steps.run(values, options)
        else:
            self._in_order.run_each(values, options, record)
        return values

    def bind(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[dict[str, jax.Array], dict[str, int]]:
        """Return the tensors among the arguments and the sizes of the free axes by name, after all checks."""
        inputs, sizes = bind_inputs(self.graph, args, kwargs, guards=self.options.guards)
        if self.options.guards:
            constants = {item.name: item.constant for item in self.inputs if item.type is None}
            shapes = {name: array.shape for name, array in inputs.items()}
            require_guards(self.graph.guards, shapes, constants, self.graph.lines)
        return inputs, sizes

    def takes(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Return True if the arguments fit the program, as far as their values do not matter."""
        try:
            self.bind(args, kwargs)
        except ProgramError:
            return False
        return True

    def with_options(self, **changes: Unpack[OptionChanges]) -> Program:
        """Return the program with other settings. Settings that are not given keep their values.

        Args:
          changes: one or more of the settings

            - ``precision``: precision of matrix products and convolutions, see
              :mod:`jaxlstm.layer.precision`.
            - ``backend``: implementation of LSTMs and GRUs, see :func:`jaxlstm.lstm`.
            - ``guards``: check the conditions on sizes that the export recorded, and refuse sizes below 2
              where it recorded none about them. Without the check, inputs that would take another branch of
              the model give wrong numbers.

        Raises:
          ValueError: the name of the precision or backend is unknown.
        """
        program = copy.copy(self)
        program.options = replace(self.options, **changes)
        precision_.resolve(program.options.precision)
        require_backend(program.options.backend)
        return program

    def for_inference(self) -> Program:
        """Return the program without derivatives, with weights of the native kernel among its ``params``."""
        program = copy.copy(self)
        tensors = {**self.params, **self.buffers, **self.constants}
        graph, weights = prepare_weights(fuse(self._fast), tensors)
        program._steps, program.at_sizes = self._bound(graph), None
        program.graph = replace(self.graph, parameters=graph.parameters)
        program.params = {**self.params, **jax.device_put(weights)}
        return program

    def save(
        self,
        path: str | os.PathLike[str],
        params: Mapping[str, Any] | None = None,
        *,
        buffers: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> None:
        """Write the program as a ``.pt2`` file, atomically.

        ``torch.export.load`` of torch 2.9 or later opens the file, and so does ``jaxlstm.load_program``. It
        holds the example of the export, and the branches of one or two conditions on values. If calls of a
        program of ``from_module`` had other sizes than it takes, lists of other lengths or other constants,
        the file takes these, too: call the program, or ``jax.eval_shape`` of it, once for each.

        Args:
          path: the file.
          params: parameters with the names and shapes of ``program.params``, which is the default.
          buffers: buffers as ``program.buffers``, which is the default.
          overwrite: replace an existing file that jaxlstm did not write.

        Raises:
          ProgramError: params or buffers do not fit the program.
          FileExistsError: ``path`` exists and must not be replaced.
          TypeError: the program was made from a graph and not from a file or module.
        """
        programs = self.as_saved("model", params, buffers)
        write, _ = programs["model"]
        write(Path(path), programs, overwrite=overwrite)

    def as_saved(
        self, name: str, params: Mapping[str, Any] | None, buffers: Mapping[str, Any] | None
    ) -> dict[str, tuple[FileWriter, dict[str, Any]]]:
        """Return the writer and the tensors of this program and of others of its model, by name in a file."""
        others = {
            f"{name}@{kind}{n}": other._as_saved(params, buffers)
            for kind, stored in (("", "stored"), ("sizes", "of_sizes"))
            for n, other in enumerate(getattr(self.at_sizes, stored, tuple)(), 1)
        }
        return {name: self._as_saved(params, buffers), **others}

    def _as_saved(
        self, params: Mapping[str, Any] | None, buffers: Mapping[str, Any] | None
    ) -> tuple[FileWriter, dict[str, Any]]:
        params = self.params if params is None else params
        buffers = self.buffers if buffers is None else buffers
        require_tensors("params", params, self.params)
        require_tensors("buffers", buffers, self.buffers)
        if self._write is None:
            raise TypeError(
                "only programs of jaxlstm.load_program and jaxlstm.from_module can be saved; this one was "
                "made from a graph"
            )
        tied = {name: params[first] for name, first in self.tied.items()}
        return self._write, {**params, **tied, **buffers}

    def __str__(self) -> str:
        return listing(self.graph)

    def __repr__(self) -> str:
        count = sum(array.size for array in self.params.values())
        return f"<Program: {len(self.graph.nodes)} nodes, {count:,} parameters>"


def _tied_names(names: Mapping[str, str], tensors: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Return other name -> first name of the parameters whose tensor is the same array."""
    first: dict[int, str] = {}
    tied = {}
    for name in dict.fromkeys(names.values()):
        if name in tensors:
            owner = first.setdefault(id(tensors[name]), name)
            if owner != name:
                tied[name] = owner
    return tied


def _if_valid(output: Any, result: Any, valid: jax.Array | None) -> Any:
    """Return a result of the graph; unless valid, see `if_valid`."""
    if valid is not None and type(output) in (int, float):  # The export may have fixed it.
        result = jnp.asarray(result)
    return result if valid is None or not isinstance(result, jax.Array) else if_valid(result, valid)


def _hold_tensors(
    kind: str, names: Mapping[str, str], tensors: Mapping[str, np.ndarray], *, copy: bool = True
) -> dict[str, jax.Array]:
    """Return the tensors that the graph uses as JAX arrays, under torch's names.

    ``copy=False`` lets JAX use the memory of the tensors.
    """
    missing = [name for name in names.values() if name not in tensors]
    if missing:
        raise ProgramError("malformed-graph", f"the file has no tensor for the {kind} {missing[0]}")
    arrays = {}
    for name in names.values():
        if name not in arrays:
            values = np.asarray(tensors[name])
            dtype = held_without_loss(values, f"{kind} {name}")
            arrays[name] = np.array(values, dtype, copy=True if copy else None)
    # One call for all arrays: each call takes as long as a small array.
    return jax.device_put(arrays)
