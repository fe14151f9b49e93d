"""``jaxlstm.inference.BatchPredictor``: a checkpoint or program as a picklable callable on batches."""

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxlstm._shared.files import require_path
from jaxlstm._shared.progress import Progress, no_progress
from jaxlstm.inference.columns import RowError, arrow_column, as_rows
from jaxlstm.inference.rows import LSTMRows, ProgramRows
from jaxlstm.layer.config import positive_int
from jaxlstm_converters.lstm._load import read_lstm
from jaxlstm_converters.pt2._load_program import is_program, load_program

_LOADING = threading.Lock()
"""Held while a model is loaded: threads may share a predictor, and loading changes the environment."""


class BatchPredictor:
    """An LSTM or a program over batches of rows, for Ray Data and other engines.

    It is pickled by path and options. Each process loads the file at its first batch.

    A batch is a dict of columns (NumPy or Arrow arrays, or lists) or an Arrow table, and so is the result:
    all columns in their order, and one more for each result. In a dict, a column of results is an object
    array with an array for each row; in a table, it has nested lists, one list of steps for each row, and
    bfloat16 is widened to float32. Threads may share a predictor.

    - For an LSTM, a row of ``column`` is a sequence (time, input_size) of any length, and the result
      ``"outputs"`` is (time, output_size).
    - For a ``.pt2`` program, a row is an input without its batch axis. A single result is ``"outputs"``;
      others have the names that ``jaxlstm inspect`` shows. Each shape of a row is compiled, unless
      padding cannot reach the results.

    Args:
      path: a checkpoint, or a ``.pt2`` program.
      column: the column of the input. For a program with several inputs, a dict from each input to its
        column; by default the columns have the names of the inputs.
      prefix: the LSTM to use, as for ``jaxlstm.load``; of a program, it selects one LSTM.
      method: the name of a program in a ``.pt2`` file with several.
      batch_first, dropout: accepted as by ``jaxlstm.load``, without effect: a row has no batch axis, and
        inference no dropout.
      dtype: dtype in which an LSTM runs; the dtype of its weights if None.
      cast: convert inputs of another dtype. Lists of Python numbers are always converted.
      states: for an LSTM, add ``"h_n"`` and ``"c_n"``, each (layers * directions, features).
      batch_size: rows that are computed together.
      pad: padding of the rows of a program, see :func:`jaxlstm.inference.compile`.
      keep_inputs: False leaves the columns of the inputs out of the result, so that no engine copies them.
      error_column: None raises at the first bad row. Otherwise a bad row gets null results and its error in
        this column, which is null in other rows, and NaN and infinity make a row bad too.
      threads: CPU threads of the process. By default NPROC or OMP_NUM_THREADS, which Ray sets to the CPUs of
        the worker, or else all CPUs. XLA takes the number only if the process has not used JAX before.

    Raises:
      RowError: a row has another shape or dtype, or a null. Its message names the row and the column.
      ValueError: a column is missing or has the name of a result, the columns have unequal lengths, or an
        option does not fit the file.
      CheckpointError, OSError: the file is damaged or cannot be read.

    >>> torch.save(torch.nn.LSTM(3, 5).state_dict(), "lstm.pt")
    >>> predictor = jaxlstm.inference.BatchPredictor("lstm.pt")
    >>> sequences = [np.ones((4, 3), np.float32), np.ones((2, 3), np.float32)]
    >>> batch = predictor({"id": [7, 8], "inputs": sequences})
    >>> [outputs.shape for outputs in batch["outputs"]]
    [(4, 5), (2, 5)]
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        column: str | Mapping[str, str] = "inputs",
        prefix: str | None = None,
        method: str | None = None,
        batch_first: bool | None = None,
        dropout: float | None = None,
        dtype: Any = None,
        cast: bool = False,
        states: bool = False,
        batch_size: int = 32,
        pad: bool | None = None,
        keep_inputs: bool = True,
        error_column: str | None = None,
        threads: int | None = None,
    ) -> None:
        require_path(path, "jaxlstm.inference.compile takes params and config")
        # Absolute, because a worker may run in another folder.
        self._path = os.path.abspath(path)
        self._given = {"batch_first": batch_first, "dropout": dropout}
        self._method = method
        self._column, self._prefix, self._dtype, self._states = column, prefix, dtype, states
        self._cast, self._keep_inputs, self._error_column = cast, keep_inputs, error_column
        self.batch_size, self._pad = positive_int("batch_size", batch_size), pad
        self._threads = None if threads is None else positive_int("threads", threads)
        self._model: LSTMRows | ProgramRows | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_model": None}

    @property
    def model(self) -> LSTMRows | ProgramRows:
        """The model, loaded on first use."""
        with _LOADING:
            if self._model is None:
                with _cpu_threads(self._threads):
                    self._model = self._load()
            return self._model

    @property
    def blanks(self) -> dict[str, np.ndarray]:
        """Each column that is added -> an empty array of the rank and dtype of its rows."""
        errors = {self._error_column: np.empty((), object)} if self._error_column is not None else {}
        return {**self.model.blanks, **errors}

    def __call__(self, batch: Any) -> Any:
        """Return the batch with a column for each result, and with the error column if there is one."""
        dropped = [] if self._keep_inputs else [declared.column for declared in self.model.inputs]
        if isinstance(batch, Mapping):
            columns = dict(batch)
            for name, values in self.added(columns).items():
                columns[name] = np.empty(len(values), object)
                for row, value in enumerate(values):
                    columns[name][row] = value
            return {name: column for name, column in columns.items() if name not in dropped}
        if not hasattr(batch, "append_column"):
            raise TypeError(f"batch must be a dict of columns or an Arrow table, got {type(batch).__name__}")
        for name, values in self.added(dict(zip(batch.schema.names, batch.columns, strict=True))).items():
            batch = batch.append_column(name, arrow_column(values, self.blanks[name]))
        return batch.select([name for name in batch.schema.names if name not in dropped])

    def _load(self) -> LSTMRows | ProgramRows:
        options: dict[str, Any] = {"batch_size": self.batch_size, "cast": self._cast}
        options["finite"] = self._error_column is not None
        if self._prefix is None and is_program(self._path):
            lstm_options = {"dtype": self._dtype, "states": self._states or None, **self._given}
            unused = " and ".join(name for name, value in lstm_options.items() if value is not None)
            if unused:
                raise ValueError(
                    f"{unused} cannot be used with a .pt2 program; for one LSTM of it pass prefix="
                )
            program = load_program(self._path, method=self._method)
            return ProgramRows(program, self._column, pad=self._pad, **options)
        if self._method is not None:
            raise ValueError(f"method selects a program of a .pt2 file, got {self._path}")
        if not isinstance(self._column, str):
            raise TypeError(f"column must be a str for an LSTM, got {self._column}")
        selected = read_lstm(self._path, self._prefix, **self._given)
        selected.warn_of_lookalike()
        return LSTMRows(
            selected.params, selected.config, self._column, dtype=self._dtype, states=self._states, **options
        )

    def added(self, columns: Mapping[str, Any], progress: Progress = no_progress) -> dict[str, list[Any]]:
        """Return the columns that a batch gets, with None in the results of bad rows."""
        inputs = [declared.column for declared in self.model.inputs]
        missing = [column for column in inputs if column not in columns]
        if missing:
            raise ValueError(
                f"there is no column {missing[0]!r} for an input of the model; pass column= with one of "
                f"{list(columns)}"
            )
        if self._error_column in self.model.blanks:
            raise ValueError(f"error_column is {self._error_column!r}, the name of a result; choose another")
        taken = [name for name in self.blanks if name in columns]
        if taken:
            raise ValueError(f"the batch has a column {taken[0]!r} already, the name of a result; rename it")
        counts = {name: len(column) for name, column in columns.items()}
        if len(set(counts.values())) > 1:
            raise ValueError(f"the columns of a batch must have equal lengths, got {counts}")
        columns = {name: as_rows(columns[name]) for name in inputs}
        rows, errors = [], []
        for row in range(counts[inputs[0]]):
            try:
                rows.append(self._row(row, columns))
                errors.append(None)
            except RowError as error:
                if self._error_column is None:
                    raise
                errors.append(f"column {error.column!r} {error.reason}")
        computed: dict[int, Any] = {}
        progress(0, len(rows), "sequences")
        for row, result in self.model.results(rows):
            computed[row] = result
            progress(len(computed), len(rows), "sequences")
        good = iter(range(len(rows)))
        results = [(None,) * len(self.model.blanks) if error else computed[next(good)] for error in errors]
        added = {name: [row[k] for row in results] for k, name in enumerate(self.model.blanks)}
        return added if self._error_column is None else {**added, self._error_column: errors}

    def _row(self, row: int, columns: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
        """Return the inputs of one row as arrays."""
        arrays, sizes = [], {}
        for declared in self.model.inputs:
            try:
                array = declared.array(columns[declared.column][row])
                for size, actual in zip(declared.shape, array.shape, strict=True):
                    if isinstance(size, str) and sizes.setdefault(size, actual) != actual:
                        raise ValueError(
                            f"has {actual} in axis {size}, another input of the row {sizes[size]}"
                        )
            except ValueError as error:
                raise RowError(row, declared.column, str(error)) from error
            arrays.append(array)
        return tuple(arrays)


@contextlib.contextmanager
def _cpu_threads(threads: int | None) -> Iterator[None]:
    """Set NPROC, from which XLA and the native kernel take their number of threads when they are created."""
    previous = os.environ.get("NPROC")
    number = threads or previous or os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    if number:
        os.environ["NPROC"] = str(number)
    try:
        yield
    finally:
        os.environ.pop("NPROC", None)
        if previous is not None:
            os.environ["NPROC"] = previous
