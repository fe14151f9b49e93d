"""The arguments of an executable: a batch padded to its bucket, its initial states and its lengths."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

from jaxlstm.config import LSTMConfig
from jaxlstm.kernels.cpu.memory import ALIGNMENT, aligned_zeros


class FullBatch(NamedTuple):
    """A batch that fills its bucket, from zero states.

    An Engine keeps one for each bucket, since every NumPy array that a call makes and passes takes
    microseconds.

    Attributes:
      start: h, c and lengths, on the device.
      computed_steps: the number of time steps that the executable computes.
    """

    start: tuple[jax.Array, jax.Array, jax.Array]
    computed_steps: int


def padded_inputs(x: np.ndarray, steps: int, rows: int) -> np.ndarray:
    """Return x (time, batch, features) with zeros up to a bucket, or x itself if XLA can read it in place."""
    time, batch, features = x.shape
    is_full = (time, batch) == (steps, rows)
    if is_full and x.flags.c_contiguous and x.ctypes.data % ALIGNMENT == 0:
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
