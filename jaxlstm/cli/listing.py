"""The report of ``jaxlstm inspect`` as text."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxlstm._shared.table import count_of, size, table
from jaxlstm.cli.program.describe import program_lines


def listing(report: dict[str, Any]) -> str:
    """Return the report of ``jaxlstm inspect`` as text."""
    from jaxlstm_converters.lstm.shapes import WITH_ARTICLE

    lines = [
        f"{report['path']}: {report['container']}, {count_of(report['tensors'], 'tensor')}, "
        f"{size(report['bytes'])}",
        "",
    ]
    if "program" in report:
        lines += [*program_lines(report["program"]), ""]
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
    lines += [f"warning: {warning}" for warning in report["warnings"]]
    if refused := report.get("program", {}).get("refused"):
        lines.append(f"CANNOT RUN: {refused}")
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


def _type_text(types: tuple[str, ...]) -> str:
    return types[0] + "?" * (len(types) > 1) if types else "(tensor)"


def _shapes_text(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join("x".join(map(str, shape)) or "scalar" for shape in shapes.values())


def _sizes_text(sizes: Mapping[str, Any]) -> str:
    """Return the sizes and the arguments that differ from torch's defaults: "150 -> 150, num_layers=2"."""
    from jaxlstm.layer.config import LSTMConfig

    defaults = {field.name: field.default for field in dataclasses.fields(LSTMConfig)} | {"affine": True}
    ends = [name for name in sizes if name.startswith(("in_", "input_", "out_", "hidden_"))]
    shown = [" -> ".join(str(sizes[name]) for name in ends)] if ends else []
    for name, value in sizes.items():
        if name not in ends and (name not in defaults or value != defaults[name]):
            text = "x".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
            shown.append(f"{name}={text}")
    return ", ".join(shown)
