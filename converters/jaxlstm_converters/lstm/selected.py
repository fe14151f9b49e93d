"""One LSTM of a file, and the arguments of its config that the file does not record."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

from jaxlstm.layer.config import LSTMCellConfig, LSTMConfig


class SelectedLSTM(NamedTuple):
    """The parameters and config of one LSTM.

    Attributes:
      params: arrays under torch's names.
      config: the LSTM. It has torch's defaults for the arguments in ``unrecorded``.
      unrecorded: the unknown arguments among "batch_first" and "dropout".
      imitation: the class of the module if it may not be torch's, else "".
    """

    params: dict[str, Any]
    config: LSTMConfig
    unrecorded: tuple[str, ...]
    imitation: str = ""


def assumptions(config: LSTMConfig, unrecorded: Collection[str]) -> str:
    """Return the assumed arguments in words: "batch_first=False and dropout=0.0"."""
    return " and ".join(f"{name}={getattr(config, name)}" for name in unrecorded)


def unrecorded_arguments(config: LSTMConfig, recorded: Collection[str]) -> tuple[str, ...]:
    """Return the arguments that matter for an LSTM, follow from no tensor, and are not recorded.

    A cell has none of them, and a single layer has no dropout.
    """
    if isinstance(config, LSTMCellConfig):
        return ()
    names = ("batch_first", "dropout") if config.num_layers > 1 else ("batch_first",)
    return tuple(name for name in names if name not in recorded)
