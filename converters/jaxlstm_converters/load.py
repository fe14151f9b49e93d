"""A file of any known kind -> parameters and config."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from jaxlstm.config import LSTMConfig
from jaxlstm.params import Params
from jaxlstm_converters import flax_files
from jaxlstm_converters.checkpoint import read_checkpoint
from jaxlstm_converters.from_torch import from_torch, select_lstm


def load(
    path: str | os.PathLike[str],
    *,
    prefix: str | None = None,
    batch_first: bool | None = None,
    dropout: float | None = None,
    dtype: Any = None,
) -> tuple[Params, LSTMConfig]:
    """The parameters and config of one LSTM in a file.

    Args:
      path: a PyTorch checkpoint of any container that ``jaxlstm.read_checkpoint`` opens, or what
        ``jaxlstm.save`` wrote: safetensors, Flax msgpack or an Orbax directory.
      prefix, batch_first, dropout, dtype: as for ``jaxlstm.from_torch``; a file of ``jaxlstm.save`` says
        them itself.

    Returns:
      ``(params, config)``: JAX arrays under torch's names, and an :class:`jaxlstm.LSTMConfig`.

    Raises:
      CheckpointError: a file that cannot be trusted or is none of the known kinds.
      ValueError: no LSTM, several without a ``prefix``, or one that is not whole.
      OSError: no such file.
    """
    flax_file = read_flax_file(path, prefix)
    if flax_file is None:
        return from_torch(
            read_checkpoint(path),
            prefix=prefix or "",
            batch_first=batch_first,
            dropout=dropout,
            dtype=dtype,
        )
    params, config = flax_file
    return from_torch(
        params,
        batch_first=config.batch_first if batch_first is None else batch_first,
        dropout=config.dropout if dropout is None else dropout,
        dtype=dtype,
    )


def load_numpy(
    path: str | os.PathLike[str], prefix: str | None = None
) -> tuple[dict[str, np.ndarray], LSTMConfig]:
    """As :func:`load`, to NumPy arrays of the file's own bits; neither jax nor its 64-bit mode is needed."""
    return read_flax_file(path, prefix) or select_lstm(read_checkpoint(path), prefix=prefix)


def read_flax_file(
    path: str | os.PathLike[str], prefix: str | None = None
) -> tuple[dict[str, np.ndarray], LSTMConfig] | None:
    """What an Orbax directory or msgpack file holds; None if the path is neither."""
    path = Path(path)
    if flax_files.is_orbax(path):
        params, config = flax_files.read_orbax(path)
    elif flax_files.is_msgpack(path):
        params, config = flax_files.read_msgpack(path)
    else:
        return None
    if prefix:
        raise ValueError(
            f"prefix must be None for {path}, which holds one LSTM alone; got {prefix!r}"
        )
    return params, config
