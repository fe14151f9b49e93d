"""``jaxlstm inspect CKPT``: what a checkpoint is and every LSTM in it, without loading jax."""

from __future__ import annotations

import argparse
import json
from typing import Any

from jaxlstm._shared.table import size, table


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "inspect",
        help="list every LSTM in a checkpoint",
        description="List every LSTM and LSTMCell in a PyTorch checkpoint: prefix and config.",
    )
    parser.add_argument("checkpoint", metavar="CKPT", help="the file to read")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print what is there: status 0 if every LSTM in it is whole, 1 if there is none or one is not."""
    found = describe(args.checkpoint)
    print(json.dumps(found, indent=2) if args.json else _text(found))
    return 0 if found["lstms"] and not found["broken"] else 1


def describe(path: str) -> dict[str, Any]:
    """The facts that the command prints, as JSON has them."""
    from jaxlstm.params import param_shapes
    from jaxlstm_converters.checkpoint import read_checkpoint
    from jaxlstm_converters.config_json import config_to_dict
    from jaxlstm_converters.find import hints, survey
    from jaxlstm_converters.load import read_flax_file

    flax_file = read_flax_file(path)
    checkpoint: Any = read_checkpoint(path) if flax_file is None else flax_file[0]
    found, told = survey(checkpoint), hints(checkpoint)
    if flax_file is not None:
        found.lstms[""] = flax_file[1]
        told[""] = config_to_dict(flax_file[1])
    lstms = []
    for prefix, config in found.lstms.items():
        tensors = [found.tensors[prefix + name] for name in param_shapes(config)]
        lstms.append(
            {
                "prefix": prefix,
                "config": config_to_dict(config),
                "dtype": ", ".join(sorted({str(t.dtype) for t in tensors})),
                "parameters": sum(_count(t.shape) for t in tensors),
                "untold": _untold(config, told.get(prefix, {})),
            }
        )
    return {
        "path": str(path),
        "container": getattr(checkpoint, "container", "Flax, of jaxlstm.save"),
        "tensors": len(checkpoint),
        "bytes": sum(t.nbytes for t in checkpoint.values()),
        "lstms": lstms,
        "broken": found.broken,
        "folded": found.notes,
        "others": found.others,
        "warnings": list(getattr(checkpoint, "warnings", ())),
    }


def _untold(config: Any, told: dict[str, Any]) -> list[str]:
    """What a state dict does not say of an LSTM, and this file does not say otherwise."""
    from jaxlstm.config import LSTMCellConfig

    unsaid = () if isinstance(config, LSTMCellConfig) else ("batch_first", "dropout")
    return [name for name in unsaid if name not in told]


def _count(shape: tuple[int, ...]) -> int:
    product = 1
    for side in shape:
        product *= side
    return product


def _text(found: dict[str, Any]) -> str:
    lines = [
        f"{found['path']}: {found['container']}, {found['tensors']} tensors, {size(found['bytes'])}"
    ]
    rows = [
        (
            entry["prefix"] or "(root)",
            entry["config"]["type"],
            _arguments(entry["config"]),
            entry["dtype"],
            entry["parameters"],
        )
        for entry in found["lstms"]
    ]
    if rows:
        lines += ["", table(("prefix", "type", "config", "dtype", "parameters"), rows)]
    else:
        lines += ["", "No LSTM found."]
    lines += [
        f"not in the file: {' and '.join(entry['untold'])} of {entry['prefix'] or '(root)'}; "
        "port and check take them as arguments"
        for entry in found["lstms"]
        if entry["untold"]
    ]
    lines += [f"folded: {note}" for note in found["folded"]]
    lines += [f"BROKEN: {why}" for why in found["broken"].values()]
    lines += [
        f"not an LSTM: {prefix or '(root)'} is a {w}" for prefix, w in found["others"].items()
    ]
    lines += [f"warning: {warning}" for warning in found["warnings"]]
    return "\n".join(lines)


def _arguments(config: dict[str, Any]) -> str:
    """The sizes, and what differs from torch's defaults: "150 -> 150, num_layers=2"."""
    defaults = {
        "num_layers": 1,
        "bias": True,
        "batch_first": False,
        "dropout": 0.0,
        "bidirectional": False,
        "proj_size": 0,
    }
    differing = [
        f"{name}={config[name]}"
        for name, default in defaults.items()
        if name in config and config[name] != default
    ]
    return ", ".join([f"{config['input_size']} -> {config['hidden_size']}", *differing])
