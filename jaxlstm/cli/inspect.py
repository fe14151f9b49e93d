"""``jaxlstm inspect FILE``: list the LSTMs or all layers in a checkpoint, without importing jax.

A ``.pt2`` file is described as a program too. The check that its operators are supported imports jax.
"""

import argparse
import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

from jaxlstm._shared.table import count_of, size, table
from jaxlstm.cli import program
from jaxlstm.cli.options import add_operators, path_argument
from jaxlstm.cli.program import program_lines


def add_parser(commands: Any) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "inspect",
        help="list the LSTMs in a checkpoint or .pt2 program, or all its layers",
        description="List every LSTM and LSTMCell in a PyTorch checkpoint, with its prefix and config. For a "
        ".pt2 program also list inputs, free axes, results and operators. Nothing in the file is executed. "
        "Exit status: 0 if all LSTMs are valid and the program can run, 1 if a checkpoint has no LSTM (with "
        "--all: no layer), an LSTM is invalid or the program cannot run, 2 for bad input.",
    )
    parser.add_argument("checkpoint", type=path_argument, metavar="FILE", help="the checkpoint to read")
    parser.add_argument(
        "--all", action="store_true", help="list every layer: type, sizes, parameters, share of the model"
    )
    add_operators(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the layers: return 0 if all LSTMs are valid, 1 if nothing is found or something is invalid."""
    report = describe(args.checkpoint, every_layer=args.all)
    print(json.dumps(report, indent=2) if args.json else listing(report))
    contents = _programs_in(report) or report.get("layers", report["lstms"])
    refused = any(described["refused"] for described in _programs_in(report).values())
    return 0 if contents and not report["broken"] and not refused else 1


def _programs_in(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the programs in a report by name, "" for an only one."""
    return report.get("programs", {"": report["program"]} if "program" in report else {})


def describe(path: str, *, every_layer: bool = False) -> dict[str, Any]:
    """Return the printed information in the form of the JSON output."""
    from jaxlstm.layer.config import config_to_dict
    from jaxlstm.layer.params import param_shapes
    from jaxlstm_converters.checkpoint import read_checkpoint
    from jaxlstm_converters.lstm._find_lstms import recorded_settings, survey
    from jaxlstm_converters.lstm.selected import assumptions, unrecorded_arguments
    from jaxlstm_converters.pt2._load_program import is_program
    from jaxlstm_converters.pt2._read_pt2 import read_programs
    from jaxlstm_converters.pt2.layer_settings import recorded_arguments

    checkpoint = read_checkpoint(path)
    surveyed, hints = survey(checkpoint), recorded_settings(checkpoint)
    files = read_programs(path) if is_program(path) else {}
    for file in files.values():
        for prefix, settings in recorded_arguments(file.graph).items():
            hints[prefix] = {**hints.get(prefix, {}), **settings}
    programs = {name: program.describe(file.graph) for name, file in files.items()}
    lstms = []
    for prefix, config in surveyed.lstms.items():
        tensors = [surveyed.tensors[prefix + name] for name in param_shapes(config)]
        unrecorded = unrecorded_arguments(config, hints.get(prefix, {}))
        lstms.append(
            {
                "prefix": prefix,
                "config": config_to_dict(config),
                "dtype": ", ".join(sorted({str(t.dtype) for t in tensors})),
                "parameters": sum(math.prod(t.shape) for t in tensors),
                "not_recorded": list(unrecorded),
                "assumed": assumptions(config, unrecorded),
            }
        )
    return {
        "path": str(path),
        "container": checkpoint.container,
        "tensors": len(checkpoint),
        "bytes": sum(t.nbytes for t in checkpoint.values()),
        **({"program": next(iter(programs.values()))} if len(programs) == 1 else {}),
        **({"programs": programs} if len(programs) > 1 else {}),
        "lstms": lstms,
        **(_describe_layers(surveyed, hints) if every_layer else {}),
        **(_describe_methods(path) if every_layer and checkpoint.container == "TorchScript" else {}),
        "broken": surveyed.broken,
        "folded": surveyed.notes,
        "others": surveyed.others,
        "warnings": [*checkpoint.warnings, *_lookalikes(hints, surveyed)],
    }


def _lookalikes(hints: Mapping[str, Mapping[str, Any]], surveyed: Any) -> list[str]:
    from jaxlstm_converters.lstm.selected import lookalike_warning

    classes = {prefix: hints.get(prefix, {}).get("lookalike") for prefix in surveyed.lstms}
    lookalikes = [(prefix, name) for prefix, name in classes.items() if name]
    return [f"{prefix or '(root)'}: {lookalike_warning(class_name)}" for prefix, class_name in lookalikes]


def _describe_methods(path: str) -> dict[str, Any]:
    from jaxlstm_converters.checkpoint.errors import CheckpointError
    from jaxlstm_converters.torchscript.archive import method_lines

    try:
        return {"methods": method_lines(path)}
    except CheckpointError as error:
        return {"methods": [], "refused": f"the code is not read: {error.message}"}


def _describe_layers(surveyed: Any, hints: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    from jaxlstm_converters.layers import find_layers
    from jaxlstm_converters.optimizer.state import is_optimizer_state

    layers = find_layers(surveyed, hints)
    total = sum(layer.parameters for layer in layers)
    in_lstms = sum(layer.parameters for layer in layers if layer.types in (("LSTM",), ("LSTMCell",)))
    return {
        "layers": [
            {**dataclasses.asdict(layer), "share": layer.parameters / total if total else 0.0}
            for layer in layers
        ],
        "parameters": total,
        "lstm_share": in_lstms / total if total else 0.0,
        "optimizer_tensors": sum(map(is_optimizer_state, surveyed.tensors)),
    }


def listing(report: dict[str, Any]) -> str:
    """Return the report of ``jaxlstm inspect`` as text."""
    from jaxlstm_converters.lstm._find_lstms import WITH_ARTICLE

    lines = [
        f"{report['path']}: {report['container']}, {count_of(report['tensors'], 'tensor')}, "
        f"{size(report['bytes'])}",
        "",
    ]
    for name, described in _programs_in(report).items():
        lines += [*([f"program {name}"] if name else []), *program_lines(described), ""]
    if "layers" in report:
        lines += _layer_lines(report)
    else:
        lines += _lstm_lines(report)
    lines += [f"folded: {note}" for note in report["folded"]]
    lines += [f"INVALID: {reason}" for reason in report["broken"].values()]
    if "layers" not in report:
        lines += [
            f"not an LSTM: {prefix or '(root)'} is {WITH_ARTICLE[kind]}"
            for prefix, kind in report["others"].items()
        ]
    lines += [f"method {signature}" for signature in report.get("methods", ())]
    lines += [f"warning: {warning}" for warning in report["warnings"]]
    for described in (report, *_programs_in(report).values()):
        lines += [f"CANNOT RUN: {described['refused']}"] if described.get("refused") else []
    return "\n".join(lines).rstrip("\n")


def _lstm_lines(report: dict[str, Any]) -> list[str]:
    rows = [
        (
            entry["prefix"] or "(root)",
            entry["config"]["type"],
            _sizes_text({name: v for name, v in entry["config"].items() if name != "type"}),
            entry["dtype"],
            entry["parameters"],
        )
        for entry in report["lstms"]
    ]
    if not rows:
        return ["No LSTM found. --all lists every layer."]
    return [
        table(("prefix", "type", "config", "dtype", "parameters"), rows),
        "",
        *(
            f"not recorded: {' and '.join(entry['not_recorded'])} of {entry['prefix'] or '(root)'}; convert "
            f"and export assume {entry['assumed']} unless you pass them as options"
            for entry in report["lstms"]
            if entry["not_recorded"]
        ),
    ]


def _layer_lines(report: dict[str, Any]) -> list[str]:
    layers = report["layers"]
    if not layers:
        return ["No layer found."]
    rows = [
        (
            layer["name"],
            _type_text(layer["types"]),
            _sizes_text(layer["sizes"]) if layer["types"] else _shapes_text(layer["shapes"]),
            layer["dtype"],
            layer["parameters"],
            f"{layer['share']:.1%}",
            "; ".join(layer["notes"]),
        )
        for layer in layers
    ]
    rows.append(("total", "", "", "", report["parameters"], "", f"LSTMs: {report['lstm_share']:.1%}"))
    lines = [table(("layer", "type", "sizes", "dtype", "parameters", "share", ""), rows, right={5}), ""]
    lines += [
        f"{types[0]}?: the tensors also fit {' and '.join(types[1:])}"
        for types in dict.fromkeys(tuple(layer["types"]) for layer in layers)
        if len(types) > 1
    ]
    missing: dict[str, dict[str, None]] = {}
    for layer in layers:
        if layer["not_recorded"]:
            missing.setdefault(layer["types"][0], {}).update(dict.fromkeys(layer["not_recorded"]))
    if missing:
        lines.append("not recorded in the file:")
        lines += [f"  {kind}: {', '.join(names)}" for kind, names in missing.items()]
    if count := report["optimizer_tensors"]:
        lines.append(f"left out: {count} tensors of optimizers")
    return lines


_DEFAULTS = {
    "affine": True,
    "add_bias_kv": False,
    **dict.fromkeys(("stride", "dilation", "groups"), 1),
    **dict.fromkeys(("padding", "output_padding"), 0),
    "padding_idx": -1,
    "nonlinearity": "tanh",
}
"""torch's defaults of arguments that an LSTM does not have."""


def _type_text(types: tuple[str, ...]) -> str:
    return types[0] + "?" * (len(types) > 1) if types else "(tensor)"


def _shapes_text(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join("x".join(map(str, shape)) or "scalar" for shape in shapes.values())


def _sizes_text(sizes: Mapping[str, Any]) -> str:
    """Return the sizes and the arguments that differ from torch's defaults: "150 -> 150, num_layers=2"."""
    from jaxlstm.layer.config import LSTMConfig

    defaults = {field.name: field.default for field in dataclasses.fields(LSTMConfig)} | _DEFAULTS
    ends = [name for name in sizes if name.startswith(("in_", "input_", "out_", "hidden_"))]
    parts = [" -> ".join(str(sizes[name]) for name in ends)] if ends else []
    for name, value in sizes.items():
        values = value if isinstance(value, (list, tuple)) else [value]
        if name not in ends and (name not in defaults or any(v != defaults[name] for v in values)):
            text = "x".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
            parts.append(f"{name}={text}")
    return ", ".join(parts)
