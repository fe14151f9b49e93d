"""The JSON file of one machine: one commit, and the results of each part under its name."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from benchmarks import machine

Document = dict[str, Any]


def load(path: Path) -> Document:
    """Read a file."""
    return json.loads(path.read_text(encoding="utf-8"))


def check(path: Path) -> None:
    """Raise ValueError if a file exists and belongs to another commit or processor."""
    document, here = load(path) if path.exists() else {}, machine.identity()
    different = (
        f"{k}: {document[k]}, here {here[k]}" for k in document if k in here and document[k] != here[k]
    )
    if reasons := "; ".join(different):
        raise ValueError(f"{path} is of another run ({reasons}). Delete it or name another file")


def save(path: Path, name: str, part: dict[str, Any], load_average: float | None) -> None:
    """Add a part to a file or replace it there; a new file gets the description of the machine."""
    if path.exists():
        document = load(path)
    else:
        about = {**machine.identity(), "dirty": False, "load_average_before": load_average}
        document = {**about, **machine.details(), "parts": {}}
    document["dirty"] |= machine.is_dirty()
    document["parts"][name] = part
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.write_text(_lines(document) + "\n", encoding="utf-8")
    os.replace(unfinished, path)


def _lines(value: Any, depth: int = 0) -> str:
    """Format a document with one line for each row of a part."""
    if depth == 4 or not isinstance(value, (dict, list)) or not value:
        return json.dumps(value)
    indent = "\n" + "  " * depth
    if isinstance(value, dict):
        items = [f"{json.dumps(key)}: {_lines(item, depth + 1)}" for key, item in value.items()]
        return "{" + ",".join(f"{indent}  {item}" for item in items) + indent + "}"
    return "[" + ",".join(f"{indent}  {_lines(item, depth + 1)}" for item in value) + indent + "]"
