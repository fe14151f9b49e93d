"""An LSTM and a program over the rows of a batch: rows of similar length go through them together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.inference import runner as runner_
from jaxlstm.inference.columns import RowInput
from jaxlstm.inference.compiled import SHORTEST
from jaxlstm.inference.host_arrays import time_major
from jaxlstm.inference.program_artifact import as_arguments
from jaxlstm.layer.config import LSTMConfig
from jaxlstm.programs import tree
from jaxlstm.programs.graph import Size, TensorType, Value, shown_shape
from jaxlstm.programs.operators.dtypes import held_without_loss
from jaxlstm.programs.operators.recurrent import SEQUENCE_LAYERS
from jaxlstm.programs.program import Program

MAX_LENGTH = 1 << 20
"""Largest length of one sequence among several. A length bucket is compiled only if a sequence needs it."""


class LSTMRows:
    """An LSTM over rows; for the arguments see :class:`jaxlstm.inference.BatchPredictor`.

    Attributes:
      inputs: the input of a row.
      blanks: name of a result -> an empty array of its rank and dtype.
    """

    def __init__(
        self,
        params: Mapping[str, Any],
        config: LSTMConfig,
        column: str,
        *,
        batch_size: int,
        dtype: Any,
        states: bool,
        **row_options: Any,
    ) -> None:
        options = {"max_length": MAX_LENGTH, "max_batch": batch_size, "dtype": dtype}
        self.runner = runner_.compile(params, time_major(config), **options)
        row_options["ranges"] = {"time": (1, MAX_LENGTH)}
        self.inputs = (RowInput(column, ("time", config.input_size), self.runner.dtype, **row_options),)
        names = ("outputs", "h_n", "c_n") if states else ("outputs",)
        self.blanks = {name: np.empty((0, 0), self.runner.dtype) for name in names}

    def run(self, rows: Sequence[tuple[np.ndarray, ...]]) -> Iterator[tuple[np.ndarray, ...]]:
        """Yield the results of each row, in order."""
        sequences, window = [sequence for (sequence,) in rows], max(len(rows), 1)
        results = self.runner.imap(sequences, self.runner.max_batch, window=window, progress=False)
        for outputs, (h_n, c_n) in results:
            yield (outputs, np.asarray(h_n), np.asarray(c_n))[: len(self.blanks)]


Arrays = tuple[np.ndarray, ...]
Shape = tuple[int, ...]


class ProgramRows:
    """A program over rows, which are its inputs without the batch axis.

    Args:
      program: the program. The first axis of each input is the batch.
      columns: the column of the only input, or a dict from inputs to columns; "inputs" stands for the names
        of several inputs.
      batch_size: rows in a batch, if the batch is a free axis.
      pad: pad rows to powers of two along their only free axis, the time, so that few shapes are compiled.
        The LSTMs get the lengths.
      row_options: ``cast`` and ``finite`` of each RowInput.

    Attributes:
      inputs: the inputs of a row.
      blanks: name of a result -> an empty array of its rank and dtype.

    Raises:
      ValueError: ``columns`` does not fit the inputs, an input or a result has no batch axis, or rows are to
        be padded and do not have one free axis.
    """

    def __init__(
        self,
        program: Program,
        columns: str | Mapping[str, str],
        *,
        batch_size: int,
        pad: bool = False,
        **row_options: Any,
    ) -> None:
        self._program = program
        declared_inputs = {declared.name: declared for declared in program.inputs}
        types = {
            name: declared.type for name, declared in declared_inputs.items() if declared.type is not None
        }
        self._batch = _batch_of(types)
        if isinstance(self._batch, int):
            self._size = self._batch
        else:
            self._size = min(batch_size, program.graph.size_range(self._batch)[1] or batch_size)
        free = {size for type_ in types.values() for size in type_.shape[1:] if isinstance(size, str)}
        row_options["ranges"] = {size: program.graph.size_range(size) for size in free}
        column_of = _column_of(list(types), columns)
        self.inputs = tuple(
            RowInput(
                column_of[name],
                type_.shape[1:],
                type_.dtype,
                program_input=declared_inputs[name],
                **row_options,
            )
            for name, type_ in types.items()
        )
        results = _result_types(program)
        self._shapes = {name: type_.shape for name, type_ in results.items()}
        self._axes = {name: _axis_of(self._batch, name, shape) for name, shape in self._shapes.items()}
        self.blanks = {
            name: np.empty((0,) * (len(type_.shape) - 1), jax.dtypes.canonicalize_dtype(type_.dtype))
            for name, type_ in results.items()
        }
        self._takes_lengths = any(node.op in SEQUENCE_LAYERS for node in program.graph.nodes)
        self._call = jax.jit(self._leaves)
        self._time = self._free_axis() if pad else None

    def run(self, rows: Sequence[Arrays]) -> Iterator[Arrays]:
        """Yield the results of each row, in order."""
        groups: dict[tuple[Shape, ...], list[int]] = {}
        for index, row in enumerate(rows):
            groups.setdefault(self._padded_shapes(row), []).append(index)
        results: dict[int, Arrays] = {}
        for shapes, indices in groups.items():
            for start in range(0, len(indices), self._size):
                chosen = indices[start : start + self._size]
                results.update(zip(chosen, self._run([rows[index] for index in chosen], shapes), strict=True))
        return (results.pop(index) for index in range(len(rows)))

    def _run(self, rows: Sequence[Arrays], shapes: tuple[Shape, ...]) -> Iterator[Arrays]:
        """Yield the results of at most ``self._size`` rows, padded to the given shapes."""
        count = self._size
        if isinstance(self._batch, str):  # powers of two, so that few sizes of batches are compiled
            smallest = self._program.graph.size_range(self._batch)[0]
            count = max(min(count, 1 << (len(rows) - 1).bit_length()), smallest)
        filled = [*rows, *[rows[-1]] * (count - len(rows))]
        tensors = [np.zeros((count, *shape), d.dtype) for d, shape in zip(self.inputs, shapes, strict=True)]
        for index, row in enumerate(filled):
            for tensor, array in zip(tensors, row, strict=True):
                _fill(tensor[index], array)
        lengths = np.array([self._length(row) for row in filled], np.int32) if self._time else None
        for declared, tensor in zip(self.inputs, tensors, strict=True):
            held_without_loss(tensor, f"column {declared.column!r}")
        leaves = [np.asarray(leaf) for leaf in self._call(self._program.params, lengths, *tensors)]
        for index, row in enumerate(rows):
            taken = [leaf.take([index], axis) for leaf, axis in zip(leaves, self._axes.values(), strict=True)]
            cut = self._without_padding(taken, self._length(row)) if self._time else taken
            # Copies, because a view would keep the whole result alive.
            yield tuple(np.array(a.squeeze(axis)) for a, axis in zip(cut, self._axes.values(), strict=True))

    def _leaves(self, params: Any, lengths: Any, *tensors: Any) -> list[jax.Array]:
        """Return the results in the order of their names; JAX would sort the keys of a dict."""
        args, kwargs = as_arguments(self._program, tensors)
        lengths = lengths if self._takes_lengths else None
        results = self._program(params, *args, seq_lengths=lengths, **kwargs)
        return [jnp.asarray(leaf) for leaf in tree.flatten(self._program.graph.out_tree, results, "results")]

    def _free_axis(self) -> str:
        """Return the only free axis of a row. The lengths of all results must be known from it."""
        free = {size for declared in self.inputs for size in declared.shape if not isinstance(size, int)}
        shapes = list(map(shown_shape, self._shapes.values()))
        if len(free) != 1 or any(None in shape for shape in self._shapes.values()):
            raise ValueError(
                f"pad=True requires one free axis of a row, from which the shapes of the results follow; the "
                f"rows have {sorted(map(str, free))}, and the results the shapes {shapes}. Leave pad out"
            )
        return str(free.pop())

    def _bucket(self, length: int) -> int:
        """Return the power of two to which a length is padded, or the largest length of the program."""
        size, longest = max(SHORTEST, 1 << (length - 1).bit_length()), None
        if self._time:
            longest = self._program.graph.size_range(self._time)[1]
        return size if longest is None else min(size, longest)

    def _padded_shapes(self, row: Arrays) -> tuple[Shape, ...]:
        if not self._time:
            return tuple(array.shape for array in row)
        bucket = self._bucket(self._length(row))
        return tuple(
            tuple(bucket if size == self._time else n for size, n in zip(d.shape, a.shape, strict=True))
            for d, a in zip(self.inputs, row, strict=True)
        )

    def _length(self, row: Arrays) -> int:
        """Return the size of the time axis of a row."""
        pairs = zip(self.inputs, row, strict=True)
        return next(a.shape[d.shape.index(self._time)] for d, a in pairs if self._time in d.shape)

    def _without_padding(self, results: Sequence[Any], length: int) -> list[np.ndarray]:
        """Return results, with their batch axis, up to the end of the time."""
        return [
            np.asarray(result)[tuple(slice(length if size == self._time else None) for size in shape)]
            for result, shape in zip(results, self._shapes.values(), strict=True)
        ]


def _fill(target: np.ndarray, array: np.ndarray) -> np.ndarray:
    """Write an array to the first corner of a larger one, and return that."""
    target[tuple(map(slice, array.shape))] = array
    return target


def _column_of(inputs: list[str], columns: str | Mapping[str, str]) -> dict[str, str]:
    """Return input -> column."""
    if isinstance(columns, str):
        columns = {inputs[0]: columns} if len(inputs) == 1 else {name: name for name in inputs}
    if set(columns) != set(inputs):
        raise ValueError(
            f"column must be a dict from each of the inputs {inputs} to its column, got {columns}"
        )
    return dict(columns)


def _batch_of(types: Mapping[str, TensorType]) -> int | str:
    """Return the size of the first axis of every input."""
    sizes = {name: type_.shape[0] if type_.shape else None for name, type_ in types.items()}
    batch, *others = dict.fromkeys(sizes.values()) or [None]
    if batch is None or others:
        raise ValueError(f"the first axis of each of the program's inputs must be the batch, got {sizes}")
    return batch


def _result_types(program: Program) -> dict[str, TensorType]:
    """Return name of a result -> type. A single result without a name is called "outputs"."""
    types = {declared.name: declared.type for declared in program.inputs}
    for node in program.graph.nodes:
        types.update(node.types)
    names = tree.leaf_names(program.graph.out_tree)
    outputs = [output.name if isinstance(output, Value) else "" for output in program.graph.outputs]
    scalar = TensorType(np.dtype(int), ())
    found = [types.get(output) or scalar for output in outputs]
    return dict(zip(["outputs"] if names == ["result"] else names, found, strict=True))


def _axis_of(batch: Size, name: str, shape: tuple[Size, ...]) -> int:
    if batch not in shape:
        raise ValueError(
            f"result {name} has shape {shown_shape(shape)} without the batch axis {batch} of the inputs, so "
            "it does not belong to one row"
        )
    if isinstance(batch, int) and shape.count(batch) > 1:
        raise ValueError(
            f"result {name} has shape {shown_shape(shape)}, in which several axes have the size {batch} of "
            "the batch; export the program with a free batch axis"
        )
    return shape.index(batch)
