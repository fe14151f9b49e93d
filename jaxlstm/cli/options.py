"""Arguments that several commands share."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jaxlstm._shared.progress import Progress, no_progress

if TYPE_CHECKING:
    from jaxlstm_converters.lstm.selected import SelectedLSTM


def add_command(
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace], int],
    *,
    output: str = "",
    overwrite: bool = False,
    **texts: str,
) -> argparse.ArgumentParser:
    """Add the parser of a command that reads a checkpoint.

    Args:
      commands: the subparsers of ``jaxlstm``.
      name: the name of the command.
      run: runs the command and returns its exit status.
      output: help of ``-o``, which the command has if this is not empty.
      overwrite: True if the command has ``--overwrite``.
      texts: ``help`` and ``description``.
    """
    parser = commands.add_parser(name, **texts)
    parser.add_argument("checkpoint", type=path_argument, metavar="FILE", help="the checkpoint to read")
    if output:
        parser.add_argument("-o", "--output", type=path_argument, required=True, metavar="OUT", help=output)
    if overwrite:
        parser.add_argument(
            "--overwrite",
            action="store_true",
            help="replace existing files even if they were not written by jaxlstm",
        )
    parser.add_argument(
        "--prefix", help="the LSTM to use, as listed by 'jaxlstm inspect'; required if there are several"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run, batch_first=None, dropout=None)
    return parser


def path_argument(text: str) -> str:
    """Return a path argument; refuse an empty one, which is usually an unset variable of a shell."""
    if not text:
        raise argparse.ArgumentTypeError("must be a path, got an empty string")
    return text


def add_unrecorded(parser: argparse.ArgumentParser) -> None:
    """Add the config fields that most checkpoints do not record: ``--batch-first`` and ``--dropout``."""
    unrecorded = "which most checkpoints do not record"
    parser.add_argument(
        "--batch-first",
        action=argparse.BooleanOptionalAction,
        help=f"the module's batch_first, {unrecorded} (default: assumed off)",
    )
    parser.add_argument(
        "--dropout", type=float, metavar="P", help=f"the module's dropout, {unrecorded} (default: assumed 0)"
    )


def load_selected(args: argparse.Namespace, progress: Progress = no_progress) -> SelectedLSTM:
    """Load the selected LSTM, with its parameters as NumPy arrays."""
    from jaxlstm.layer.config import LSTMCellConfig
    from jaxlstm_converters.lstm._load import read_lstm
    from jaxlstm_converters.lstm.torch_module import lookalike_warning
    from jaxlstm_converters.porting_warning import PortingWarning

    fields = {"batch_first": args.batch_first, "dropout": args.dropout}
    selected = read_lstm(args.checkpoint, args.prefix, progress=progress, **fields)
    if selected.lookalike:
        warnings.warn(lookalike_warning(selected.lookalike), PortingWarning, stacklevel=2)
    given = [f"--{n.replace('_', '-')}" for n, value in fields.items() if value is not None]
    if given and isinstance(selected.config, LSTMCellConfig):
        raise ValueError(f"{' and '.join(given)} cannot be used with an LSTMCell")
    return selected


def warn_of_assumptions(args: argparse.Namespace, selected: SelectedLSTM) -> None:
    """Print a warning if ``--batch-first`` or ``--dropout`` was not given and is not in the file."""
    from jaxlstm_converters.lstm.selected import assumptions

    if not selected.unrecorded:
        return
    assumed = assumptions(selected.config, selected.unrecorded)
    options = {"batch_first": "--batch-first or --no-batch-first", "dropout": "--dropout P"}
    print(
        f"jaxlstm {args.command}: warning: {args.checkpoint} does not record "
        f"{' and '.join(selected.unrecorded)}; assumed {assumed}. Pass "
        f"{' and '.join(options[name] for name in selected.unrecorded)}",
        file=sys.stderr,
    )
