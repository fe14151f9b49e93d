"""An LSTM over the rows of a batch: ragged sequences in, outputs and final states out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxlstm.inference import runner as runner_
from jaxlstm.inference.columns import RowInput
from jaxlstm.inference.host_arrays import time_major
from jaxlstm.layer.config import LSTMConfig

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
