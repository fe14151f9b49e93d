"""Load one LSTM from a file of any supported format."""

from __future__ import annotations

import os
import warnings
from typing import Any

from jaxlstm._shared.files import require_path
from jaxlstm._shared.progress import Progress, no_progress
from jaxlstm.layer.config import LSTMConfig
from jaxlstm.layer.params import Params
from jaxlstm_converters.checkpoint import read_checkpoint
from jaxlstm_converters.lstm._from_torch import to_jax
from jaxlstm_converters.lstm.selected import SelectedLSTM, assumptions, select_lstm, with_fields
from jaxlstm_converters.lstm.torch_module import lookalike_warning
from jaxlstm_converters.porting_warning import PortingWarning


def load(
    path: str | os.PathLike[str],
    *,
    prefix: str | None = None,
    batch_first: bool | None = None,
    dropout: float | None = None,
    dtype: Any = None,
) -> tuple[Params, LSTMConfig]:
    """Return the parameters and config of one LSTM in a file.

    Args:
      path: a checkpoint in any format of ``jaxlstm.read_checkpoint``, such as a file of ``jaxlstm.save``.
      prefix, batch_first, dropout, dtype: as for ``jaxlstm.from_torch``. Files of ``jaxlstm.save`` and
        modules that were pickled whole record ``batch_first`` and ``dropout``. For other files, a warning
        gives the assumed values of arguments that are None.

    Returns:
      ``(params, config)``: JAX arrays under torch's names and an :class:`jaxlstm.LSTMConfig`.

    Warns:
      PortingWarning: ``batch_first`` or ``dropout`` is neither recorded nor given, or the file holds a whole
        module whose LSTM may be of another class than torch's, with the same parameter names.

    Raises:
      CheckpointError: the file is damaged, unsafe or in an unknown format.
      TypeError: ``path`` is not a path, or ``dtype`` is not a float dtype.
      ValueError: the file has no LSTM, ``prefix`` does not select exactly one, or the LSTM is invalid.
      OSError: the file cannot be read.

    >>> torch.save(torch.nn.LSTM(3, 5).state_dict(), "lstm.pt")
    >>> params, config = jaxlstm.load("lstm.pt", batch_first=False, dropout=0.0)
    >>> config.hidden_size
    5
    """
    require_path(path, "jaxlstm.from_torch takes a state dict or a torch module")
    selected = read_lstm(path, prefix, batch_first=batch_first, dropout=dropout)
    if selected.lookalike:
        warnings.warn(lookalike_warning(selected.lookalike), PortingWarning, stacklevel=2)
    if selected.unrecorded:
        assumed = assumptions(selected.config, selected.unrecorded)
        warnings.warn(
            f"{os.fspath(path)} does not record {' and '.join(selected.unrecorded)} of the LSTM; assumed "
            f"{assumed}. Pass the values of the torch module to jaxlstm.load",
            PortingWarning,
            stacklevel=2,
        )
    return to_jax(selected.params, dtype), selected.config


def read_lstm(
    path: str | os.PathLike[str], prefix: str | None = None, *, progress: Progress = no_progress, **given: Any
) -> SelectedLSTM:
    """Load as :func:`load` does, with NumPy arrays of the stored dtype and without importing jax.

    Args:
      path, prefix: as for :func:`load`.
      progress: called before each tensor is read.
      **given: ``batch_first`` and ``dropout``, which override the file unless they are None.
    """
    selected = select_lstm(read_checkpoint(path), prefix=prefix, progress=progress)
    unrecorded = tuple(name for name in selected.unrecorded if given.get(name) is None)
    return selected._replace(config=with_fields(selected.config, **given), unrecorded=unrecorded)
