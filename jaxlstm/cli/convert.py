"""``jaxlstm convert FILE -o OUT``: convert one LSTM of a checkpoint to another file format."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from jaxlstm.cli.output import checkpoint_files, require_not_input
from jaxlstm.cli.selection import add_selection, load_selected


def add_parser(commands: Any) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "convert",
        help="convert one LSTM of a checkpoint to another file format",
        description="Convert one LSTM of a checkpoint to safetensors, PyTorch, Flax msgpack or Orbax. "
        "The file is read back and compared bit for bit. "
        "Exit status: 0 if all bits are equal, 1 if not, 2 for bad input.",
    )
    parser.add_argument("checkpoint", metavar="FILE", help="the checkpoint to read")
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="OUT",
        help="the file to write, or the directory for Orbax; it must not be FILE",
    )
    add_selection(parser)
    parser.add_argument(
        "--format",
        choices=("safetensors", "torch", "msgpack", "orbax"),
        help="the format of OUT (default: by its suffix: .safetensors, .pt or .pth, .msgpack, "
        "or no suffix for an Orbax directory)",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace OUT even if it exists and was not written by jaxlstm",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the file, read it back and compare: return 0 if every bit is the same, 1 if not."""
    import numpy as np

    from jaxlstm.config_json import config_to_dict
    from jaxlstm_converters.lstm._load import load_numpy
    from jaxlstm_converters.write._save import format_of, save

    output = Path(args.output)
    form = args.format or format_of(output)
    require_not_input(output, checkpoint_files(args.checkpoint))
    params, config = load_selected(args)
    save(output, params, config, format=form, overwrite=args.overwrite)
    written, written_config = load_numpy(output)
    if form == "torch":
        written_config = dataclasses.replace(written_config, **_unrecorded_fields(config))
    bit_exact = written_config == config and all(
        written[name].dtype == array.dtype and np.array_equal(_bits(written[name]), _bits(array))
        for name, array in params.items()
    )
    report = {
        "output": str(output),
        "format": form,
        "config": config_to_dict(config),
        "parameters": sum(array.size for array in params.values()),
        "bit_exact": bit_exact,
    }
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        print(f"{output}: {form}, {report['parameters']} parameters of {config}")
        print("read back: all bits equal" if bit_exact else "READ BACK: BITS DIFFER")
    return 0 if bit_exact else 1


def _unrecorded_fields(config: Any) -> dict[str, Any]:
    """Return the config fields that a torch state dict does not record."""
    from jaxlstm.config import LSTMCellConfig

    if isinstance(config, LSTMCellConfig):
        return {}
    return {"batch_first": config.batch_first, "dropout": config.dropout}


def _bits(array: Any) -> Any:
    """Return the array as unsigned integers, so that NaN equals NaN and -0 differs from 0."""
    return array.view(f"u{array.itemsize}")
