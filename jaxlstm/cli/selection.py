"""Options that select one LSTM of a checkpoint, shared by several commands."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Add ``--prefix``, ``--batch-first`` and ``--dropout``."""
    parser.add_argument(
        "--prefix",
        help="the LSTM to use, as listed by 'jaxlstm inspect'; required if there are several",
    )
    parser.add_argument(
        "--batch-first",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="the module's batch_first, which most checkpoints do not record (default: off)",
    )
    parser.add_argument(
        "--dropout",
        type=float,
        metavar="P",
        help="the module's dropout, which most checkpoints do not record (default: 0)",
    )


def load_selected(args: argparse.Namespace) -> tuple[dict[str, Any], Any]:
    """Load the selected LSTM: its parameters as NumPy arrays, and its config."""
    from jaxlstm.config import LSTMCellConfig
    from jaxlstm_converters.lstm._load import load_numpy

    params, config = load_numpy(args.checkpoint, args.prefix)
    fields = {
        name: value
        for name, value in (("batch_first", args.batch_first), ("dropout", args.dropout))
        if value is not None
    }
    if fields and isinstance(config, LSTMCellConfig):
        options = " and ".join(f"--{name.replace('_', '-')}" for name in fields)
        raise ValueError(f"{options} cannot be used with an LSTMCell")
    return params, dataclasses.replace(config, **fields)
