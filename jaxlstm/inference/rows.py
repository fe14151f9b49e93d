"""An LSTM and a program over the rows of a batch: rows of similar length go through them together."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxlstm.inference import runner as runner_
from jaxlstm.inference.columns import RowInput, arrow_memory
from jaxlstm.inference.host_arrays import time_major
from jaxlstm.layer.config import LSTMConfig
from jaxlstm.programs.operators.dtypes import held_without_loss
from jaxlstm.programs.program import Program

MAX_LENGTH = 1 << 20
"""Largest length of one sequence among several. A length bucket is compiled only if a sequence needs it."""


class LSTMRows:
    """An LSTM over rows; for the arguments see :class:`jaxlstm.inference.BatchPredictor`.

    Attributes:
      batch_size: rows that are computed together.
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
        self.runner, self.batch_size = runner_.compile(params, time_major(config), **options), batch_size
        row_options["ranges"] = {"time": (1, MAX_LENGTH)}
        self.inputs = (RowInput(column, ("time", config.input_size), self.runner.dtype, **row_options),)
        names = ("outputs", "h_n", "c_n") if states else ("outputs",)
        self.blanks = {name: np.empty((0, 0), self.runner.dtype) for name in names}

    def results(self, rows: Sequence[tuple[np.ndarray, ...]]) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """Yield index and results of each row. All outputs lie one after another in one array."""
        sequences = [sequence for (sequence,) in rows]
        ends = np.cumsum([0, *map(len, sequences)])
        memory = arrow_memory((ends[-1], self.runner.config.output_size), self.runner.dtype)
        outputs = [memory[start:end] for start, end in itertools.pairwise(ends)]
        for row, (array, states) in self.runner.rows(sequences, self.batch_size, outputs=outputs):
            yield row, (array, *states)[: len(self.blanks)]


class ProgramRows:
    """A program over rows, which are its inputs without the batch axis.

    Args:
      program: the program. The first axis of each input is the batch.
      columns: the column of the only input, or a dict from inputs to columns; "inputs" stands for the names
        of several inputs.
      batch_size: rows in a batch, if the batch is a free axis.
      pad: see :func:`jaxlstm.inference.compile`.
      options: ``cast`` and ``finite`` of each RowInput.

    Attributes:
      batch_size: number of rows that are computed together, at least the program's smallest batch.
      inputs: the inputs of a row.
      blanks: name of a result -> an empty array of its rank and dtype.

    Raises:
      ValueError: ``columns`` does not fit the inputs, an input or a result has no batch axis, or padding does
        not fit the results.
    """

    def __init__(
        self,
        program: Program,
        columns: str | Mapping[str, str],
        *,
        batch_size: int,
        pad: bool | None = None,
        **options: Any,
    ) -> None:
        self.runner = runner_.compile(program, pad=pad)
        self.batch_size = max(batch_size, self.runner.smallest_batch)
        inputs, types = {declared.name: declared for declared in program.inputs}, program.graph.input_types
        options["ranges"] = {axis: program.graph.size_range(axis) for axis in program.graph.free_axes}
        column_of = _column_of(list(types), columns)
        self.inputs = tuple(
            RowInput(column_of[name], type_.shape[1:], type_.dtype, program_input=inputs[name], **options)
            for name, type_ in types.items()
        )
        assert len(self.runner.batch_axes) == len(self.runner.result_types)
        self.blanks = {
            name: np.empty((0,) * (len(type_.shape) - 1), jax.dtypes.canonicalize_dtype(type_.dtype))
            for name, type_ in self.runner.result_types.items()
        }

    def results(self, rows: Sequence[tuple[np.ndarray, ...]]) -> Iterator[tuple[int, list[np.ndarray]]]:
        """Yield index and results of each row."""
        for row in rows:
            for declared, array in zip(self.inputs, row, strict=True):
                held_without_loss(array, f"column {declared.column!r}")
        return self.runner.rows([self.runner.row(row) for row in rows], self.batch_size)


def _column_of(inputs: list[str], columns: str | Mapping[str, str]) -> dict[str, str]:
    """Return input -> column."""
    if isinstance(columns, str):
        columns = {inputs[0]: columns} if len(inputs) == 1 else {name: name for name in inputs}
    if set(columns) != set(inputs):
        raise ValueError(
            f"column must be a dict from each of the inputs {inputs} to its column, got {columns}"
        )
    return dict(columns)
