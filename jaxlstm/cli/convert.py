"""``jaxlstm convert FILE -o OUT``: one LSTM to another file format, or a program to Flax source."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from jaxlstm._shared.progress import progress_bar
from jaxlstm.cli.options import (
    add_command,
    add_unrecorded,
    checkpoint_files,
    load_selected,
    require_output,
    warn_of_assumptions,
)
from jaxlstm.cli.source import run_source


def add_parser(commands: Any) -> None:
    """Add the command's parser."""
    parser = add_command(
        commands,
        "convert",
        run,
        help="convert one LSTM of a checkpoint to another file format, or a .pt2 program to Flax source",
        description="Convert one LSTM of a checkpoint to safetensors, PyTorch or NumPy. "
        "The file is read back and compared bit for bit. If OUT ends in .py, write a .pt2 program as Flax "
        "source and its weights as safetensors; the source is run and compared with the program. "
        "Exit status: 0 if all bits are equal, or source and program are, 1 if not, 2 for bad input.",
        output="the file to write; it must not be FILE",
        overwrite=True,
    )
    add_unrecorded(parser)
    parser.add_argument(
        "--format",
        choices=("safetensors", "torch", "npz"),
        help="the format of OUT (default: by its suffix: .safetensors, .pt or .pth, .npz)",
    )
    parser.add_argument(
        "--comments", action="store_true", help="in source, write the lines of the torch code as comments"
    )
    parser.add_argument(
        "--test", action="store_true", help="also write test_OUT.py, which repeats the comparison with pytest"
    )


def run(args: argparse.Namespace) -> int:
    """Convert to source or to a file of weights."""
    if args.output.endswith(".py"):
        return run_source(args)
    if args.comments or args.test:
        raise ValueError(f"--comments and --test write source: -o must end in .py, got {args.output}")
    return _run_weights(args)


def _format_of(output: Path) -> str:
    from jaxlstm_converters.write._save import format_of

    try:
        return format_of(output)
    except ValueError as error:
        raise ValueError(f"{error}; .py writes the source of a .pt2 program") from None


def _run_weights(args: argparse.Namespace) -> int:
    """Write the file, read it back and compare: return 0 if every bit is the same, 1 if not."""
    import numpy as np

    from jaxlstm.layer.config import config_to_dict
    from jaxlstm_converters.lstm._load import read_lstm
    from jaxlstm_converters.write._save import save

    output = Path(args.output)
    form = args.format or _format_of(output)
    require_output(output, checkpoint_files(args.checkpoint))
    with progress_bar() as progress:
        selected = load_selected(args, progress)
        params, config = selected.params, selected.config
        options = {"overwrite": args.overwrite, "assumed": selected.unrecorded, "progress": progress}
        save(output, params, config, format=form, **options)
        written, written_config, *_ = read_lstm(output, progress=progress)
    warn_of_assumptions(args, selected)
    bit_exact = written_config == config and all(
        written[name].dtype == array.dtype
        # As integers, NaN equals NaN and -0 differs from 0.
        and np.array_equal(written[name].view(f"u{array.itemsize}"), array.view(f"u{array.itemsize}"))
        for name, array in params.items()
    )
    report = {
        "output": str(output),
        "format": form,
        "config": config_to_dict(config, selected.unrecorded),
        "parameters": sum(array.size for array in params.values()),
        "bit_exact": bit_exact,
    }
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        print(f"{output}: {form}, {report['parameters']} parameters of {config}")
        print("read back: all bits equal" if bit_exact else "READ BACK: BITS DIFFER")
    return 0 if bit_exact else 1
