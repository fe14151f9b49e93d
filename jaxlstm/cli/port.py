"""``jaxlstm port CKPT -o OUT``: one LSTM of a checkpoint into a file that ``jaxlstm.load`` reads."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "port",
        help="convert one LSTM of a checkpoint, bit for bit",
        description="Convert one LSTM of a PyTorch checkpoint, bit for bit, and read it back.",
    )
    parser.add_argument("checkpoint", metavar="CKPT", help="the file to read")
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="the file to write")
    add_selection(parser)
    parser.add_argument(
        "--format",
        choices=("safetensors", "torch", "msgpack", "orbax"),
        help="default: told by the end of OUT, .safetensors, .pt or .msgpack, or none for an Orbax "
        "directory; .safetensors.index.json is several files and an index",
    )
    parser.add_argument(
        "--shard-bytes", type=int, metavar="N", help="with an index: the most bytes in a file"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Which LSTM, and what a state dict does not say of it."""
    parser.add_argument("--prefix", help="which LSTM, where there are several: see inspect")
    parser.add_argument(
        "--batch-first",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="the module takes (batch, time, feature); most checkpoints do not say",
    )
    parser.add_argument("--dropout", type=float, help="the module's dropout; likewise")


def selected(args: argparse.Namespace) -> tuple[dict[str, Any], Any]:
    """The parameters, as NumPy arrays, and config of the LSTM that the arguments name."""
    from jaxlstm.config import LSTMCellConfig
    from jaxlstm_converters.load import load_numpy

    params, config = load_numpy(args.checkpoint, args.prefix)
    told = {
        name: value
        for name, value in (("batch_first", args.batch_first), ("dropout", args.dropout))
        if value is not None
    }
    if told and isinstance(config, LSTMCellConfig):
        raise ValueError(f"{', '.join(told)} cannot be set: an LSTMCell has no such argument")
    return params, dataclasses.replace(config, **told)


def unsaid(config: Any) -> dict[str, Any]:
    """What a state dict does not say of an LSTM; of a cell there is no such thing."""
    from jaxlstm.config import LSTMCellConfig

    if isinstance(config, LSTMCellConfig):
        return {}
    return {"batch_first": config.batch_first, "dropout": config.dropout}


def run(args: argparse.Namespace) -> int:
    """Write the file, read it back, and say so: status 0 if every bit is the same, 1 if not."""
    import numpy as np

    from jaxlstm_converters.config_json import config_to_dict
    from jaxlstm_converters.load import load_numpy
    from jaxlstm_converters.write import format_of, save

    params, config = selected(args)
    output = Path(args.output)
    form = args.format or format_of(output)
    save(output, params, config, format=form, shard_bytes=args.shard_bytes)
    again, config_again = load_numpy(output)
    if form == "torch":  # which does not say batch_first and dropout
        config_again = dataclasses.replace(config_again, **unsaid(config))
    same = config_again == config and all(
        again[name].dtype == array.dtype and np.array_equal(_bits(again[name]), _bits(array))
        for name, array in params.items()
    )
    report = {
        "output": str(output),
        "format": form,
        "config": config_to_dict(config),
        "parameters": sum(array.size for array in params.values()),
        "bit_exact": same,
    }
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        print(f"{output}: {form}, {report['parameters']} parameters of {config}")
        print("read back: every bit the same" if same else "READ BACK: NOT THE SAME")
    return 0 if same else 1


def _bits(array: Any) -> Any:
    """The array as whole numbers, so that NaN equals NaN and -0 is not 0."""
    return array.view(f"u{array.itemsize}")
