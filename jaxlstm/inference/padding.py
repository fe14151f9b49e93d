"""The arguments of an executable: a batch padded to its bucket, its initial states and its lengths."""

from __future__ import annotations

import numpy as np

from jaxlstm._shared.aligned import aligned_zeros
from jaxlstm.layer.config import LSTMConfig


def padded_inputs(x: np.ndarray, steps: int, rows: int) -> np.ndarray:
    """Return x (time, batch, features) with zeros up to a bucket, or x itself if it fills the bucket."""
    time, batch, features = x.shape
    if (time, batch) == (steps, rows):
        return x
    padded = aligned_zeros((steps, rows, features), x.dtype)
    padded[:time, :batch] = x
    return padded


def padded_start(
    config: LSTMConfig,
    dtype: np.dtype,
    rows: int,
    lengths: np.ndarray,
    state: tuple[np.ndarray, np.ndarray] | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return h and c (layers * directions, rows, features) and lengths (rows,), with zeros for added rows.

    ``state`` is (h, c) of the batch, or None for zeros.
    """
    batch = len(lengths)
    h, c = (aligned_zeros(shape, dtype) for shape in config.state_shapes(rows))
    if state is not None:
        h[:, :batch], c[:, :batch] = state
    padded_lengths = np.zeros(rows, np.int32)
    padded_lengths[:batch] = lengths
    return h, c, padded_lengths
