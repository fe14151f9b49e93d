"""Arguments that several commands share: checkpoints, outputs, and whether a file is a program.

An output must have a folder, and must not replace an input.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxlstm._shared.files import require_folder_of
from jaxlstm._shared.progress import Progress, no_progress

if TYPE_CHECKING:
    from jaxlstm_converters.lstm.selected import SelectedLSTM


def add_command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], *, output: str = "", **texts: str
) -> argparse.ArgumentParser:
    """Add the parser of a command that reads a checkpoint and may write a file."""
    parser = commands.add_parser(name, **texts)
    parser.add_argument("checkpoint", type=path_argument, metavar="FILE", help="the checkpoint to read")
    if output:
        parser.add_argument("-o", "--output", type=path_argument, required=True, metavar="OUT", help=output)
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace existing files even if they were not written by jaxlstm",
    )
    parser.add_argument(
        "--prefix", help="the LSTM to use, as listed by 'jaxlstm inspect'; required if there are several"
    )
    add_operators(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run, batch_first=None, dropout=None)
    return parser


def add_operators(parser: argparse.ArgumentParser) -> None:
    """Add ``--operators``."""
    parser.add_argument(
        "--operators",
        type=path_argument,
        action="append",
        default=[],
        metavar="FILE.py",
        help="run this file first (may be repeated), which registers operators of .pt2 programs with "
        "jaxlstm.programs.register_operator",
    )


def option_of(name: str) -> str:
    """Return the option of an argument: "--batch-first" for "batch_first"."""
    return f"--{name.replace('_', '-')}"


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

    fields = {"batch_first": args.batch_first, "dropout": args.dropout}
    selected = read_lstm(args.checkpoint, args.prefix, progress=progress, **fields)
    selected.warn_of_lookalike()
    passed = [option_of(name) for name, value in fields.items() if value is not None]
    if passed and isinstance(selected.config, LSTMCellConfig):
        raise ValueError(f"{' and '.join(passed)} cannot be used with an LSTMCell")
    return selected


def warn_of_assumptions(args: argparse.Namespace, selected: SelectedLSTM) -> None:
    """Warn if ``--batch-first`` or ``--dropout`` was not given and is not in the file."""
    options = {"batch_first": "--batch-first or --no-batch-first", "dropout": "--dropout P"}
    passed = " and ".join(options[name] for name in selected.unrecorded)
    selected.warn_of_assumptions(args.checkpoint, passed)


def checkpoint_files(checkpoint: str | os.PathLike[str]) -> list[Path]:
    """Return the path and, if it is the index of a sharded checkpoint, its shards."""
    path = Path(checkpoint)
    try:
        if path.suffix != ".json":
            return [path]
        weight_map = json.loads(path.read_bytes())["weight_map"]
        return [path, *(path.with_name(name) for name in sorted(set(weight_map.values())))]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # not an index
        return [path]


def require_output(
    output: str | os.PathLike[str], inputs: Iterable[str | os.PathLike[str]], *, option: str = "-o"
) -> None:
    """Raise if ``output`` has no folder to be written to, or if writing it would replace an input.

    An input is recognized under any name: through symbolic and hard links, relative paths, and names that
    differ in case on a file system that ignores case. A path inside an input directory is refused, and so
    is a directory that contains an input.
    """
    output = Path(output)
    require_folder_of(output)
    for source in map(Path, inputs):
        if not source.exists():
            continue
        if (
            _same(output, source)
            or any(_same(folder, source) for folder in output.absolute().parents)
            or (output.is_dir() and any(_same(output, folder) for folder in source.resolve().parents))
        ):
            raise ValueError(f"{option} {output} would replace the input {source}; choose another path")


def _same(a: Path, b: Path) -> bool:
    return a.exists() and os.path.samefile(a, b)


def takes_program(args: argparse.Namespace) -> bool:
    """Return True if a command applies to a whole program."""
    from jaxlstm_converters.pt2._load_program import is_program

    return args.prefix is None and is_program(args.checkpoint)


def add_script_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which module of a TorchScript archive to use, with which example."""
    parser.add_argument("--submodule", metavar="PATH", help="the module of a TorchScript archive to use")
    parser.add_argument(
        "--method", metavar="NAME", help="a method of it instead of forward, or a program of a .pt2 file"
    )
    parser.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="NAME=DTYPE[SIZES]",
        help="an example argument of the module of a TorchScript archive, such as 'x=float32[3,576]' or "
        "'sr=16000' (may be repeated)",
    )


def takes_script(args: argparse.Namespace) -> bool:
    """Return True if a command applies to a module in a TorchScript archive: there is an example."""
    from jaxlstm_converters.torchscript.archive import is_script

    options = ("submodule", "input") if takes_program(args) else ("submodule", "method", "input")
    passed = [option_of(name) for name in options if getattr(args, name)]
    if passed and not is_script(args.checkpoint):
        raise ValueError(f"{' and '.join(passed)} need a TorchScript archive, got {args.checkpoint}")
    return bool(passed)


def add_method(parser: argparse.ArgumentParser) -> None:
    """Add the option that selects one of several programs."""
    parser.add_argument("--method", metavar="NAME", help="a program of a .pt2 file with several")


def refuse_options(args: argparse.Namespace, *names: str) -> None:
    """Raise if one of these options, which have no meaning for a whole program, was given."""
    passed = [option_of(name) for name in names if getattr(args, name) not in (None, False)]
    if passed:
        raise ValueError(
            f"{' and '.join(passed)} cannot be used with a .pt2 program; for one LSTM of it pass --prefix"
        )
