"""``jaxlstm inspect FILE``: list the LSTMs in a checkpoint, without importing jax."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from typing import Any

from jaxlstm._shared.table import size, table


def add_parser(commands: Any) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "inspect",
        help="list the LSTMs in a checkpoint",
        description="List every LSTM and LSTMCell in a PyTorch checkpoint, with its prefix and config. "
        "Nothing in the file is executed. "
        "Exit status: 0 if all LSTMs are valid, 1 if there is none or one is invalid, 2 for bad input.",
    )
    parser.add_argument("checkpoint", metavar="FILE", help="the checkpoint to read")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the LSTMs: return 0 if all are valid, 1 if there is none or one is invalid."""
    report = describe(args.checkpoint)
    print(json.dumps(report, indent=2) if args.json else _text(report))
    return 0 if report["lstms"] and not report["broken"] else 1


def describe(path: str) -> dict[str, Any]:
    """Return the printed information in the form of the JSON output."""
    from jaxlstm.config_json import config_to_dict
    from jaxlstm.params import param_shapes
    from jaxlstm_converters.checkpoint import read_checkpoint
    from jaxlstm_converters.lstm._find_lstms import config_hints, survey
    from jaxlstm_converters.lstm._load import read_flax_file

    flax_file = read_flax_file(path)
    checkpoint: Any = read_checkpoint(path) if flax_file is None else flax_file[0]
    found, hints = survey(checkpoint), config_hints(checkpoint)
    if flax_file is not None:
        found.lstms[""] = flax_file[1]
        hints[""] = config_to_dict(flax_file[1])
    lstms = []
    for prefix, config in found.lstms.items():
        tensors = [found.tensors[prefix + name] for name in param_shapes(config)]
        fields = config_to_dict(config)
        hinted = hints.get(prefix, {})
        lstms.append(
            {
                "prefix": prefix,
                "config": fields,
                "dtype": ", ".join(sorted({str(t.dtype) for t in tensors})),
                "parameters": sum(math.prod(t.shape) for t in tensors),
                "not_recorded": [
                    name for name in ("batch_first", "dropout") if name in fields and name not in hinted
                ],
            }
        )
    return {
        "path": str(path),
        "container": getattr(checkpoint, "container", "Flax file of jaxlstm"),
        "tensors": len(checkpoint),
        "bytes": sum(t.nbytes for t in checkpoint.values()),
        "lstms": lstms,
        "broken": found.broken,
        "folded": found.notes,
        "others": found.others,
        "warnings": list(getattr(checkpoint, "warnings", ())),
    }


def _text(report: dict[str, Any]) -> str:
    lines = [
        f"{report['path']}: {report['container']}, {report['tensors']} tensor"
        f"{'s' * (report['tensors'] != 1)}, {size(report['bytes'])}"
    ]
    rows = [
        (
            entry["prefix"] or "(root)",
            entry["config"]["type"],
            _summary(entry["config"]),
            entry["dtype"],
            entry["parameters"],
        )
        for entry in report["lstms"]
    ]
    if rows:
        lines += ["", table(("prefix", "type", "config", "dtype", "parameters"), rows), ""]
    else:
        lines += ["", "No LSTM found."]
    lines += [
        f"not recorded: {' and '.join(entry['not_recorded'])} of {entry['prefix'] or '(root)'}; "
        "pass them to convert and check as options"
        for entry in report["lstms"]
        if entry["not_recorded"]
    ]
    lines += [f"folded: {note}" for note in report["folded"]]
    lines += [f"INVALID: {reason}" for reason in report["broken"].values()]
    lines += [f"not an LSTM: {prefix or '(root)'} is a {kind}" for prefix, kind in report["others"].items()]
    lines += [f"warning: {warning}" for warning in report["warnings"]]
    return "\n".join(lines).rstrip("\n")


def _summary(config: dict[str, Any]) -> str:
    """Return the sizes and the arguments that differ from torch's defaults: "150 -> 150, num_layers=2"."""
    from jaxlstm.config import LSTMConfig

    defaults = {field.name: field.default for field in dataclasses.fields(LSTMConfig)}
    differing = [
        f"{name}={value}"
        for name, value in config.items()
        if name in defaults and defaults[name] not in (value, dataclasses.MISSING)
    ]
    return ", ".join([f"{config['input_size']} -> {config['hidden_size']}", *differing])
