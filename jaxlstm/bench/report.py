"""A measurement as text: a table of each mode, and what was left out and why."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from jaxlstm.bench.measure import OWN
from jaxlstm._shared.table import table

Row = dict[str, Any]


def ratio(row: Row, name: str) -> float | None:
    """Time of a side / time of jaxlstm: above 1 is slower than jaxlstm. None if either was not timed."""
    ms = row["ms"]
    return ms[name] / ms[OWN] if name in ms and OWN in ms else None


def mode_table(rows: Sequence[Row], names: Sequence[str]) -> str:
    """Milliseconds of every side, and in brackets the ratio; the last line is the ratios' geometric mean."""
    header = ("T, B, I, H, layers", *(f"{name} ms" for name in (OWN, *names)))
    lines = [(row["size"], *(_cell(row, name) for name in (OWN, *names))) for row in rows]
    means = ("geometric mean", "", *(_mean(rows, name) for name in names))
    return table(header, [*lines, means])


def remarks(rows: Sequence[Row]) -> list[str]:
    """What each side was left out of, and what was wrong, each once for a reason."""
    found: dict[str, list[str]] = {}
    for row in rows:
        for name, why in row["left_out"].items():
            found.setdefault(f"- {name} {why}", []).append(row["size"])
        for name, why in row["wrong"].items():
            found.setdefault(f"WRONG, not timed: {name}: {why}", []).append(row["size"])
    return [f"{told} ({'; '.join(sizes)})" for told, sizes in found.items()]


def _cell(row: Row, name: str) -> str:
    if name in row["wrong"]:
        return "wrong"
    if name not in row["ms"]:
        return "-"
    found = ratio(row, name)
    told = f"{row['ms'][name]:.3g}"
    return told if name == OWN or found is None else f"{told} ({found:.2f})"


def _mean(rows: Sequence[Row], name: str) -> str:
    found = [value for row in rows if (value := ratio(row, name)) is not None]
    return f"({statistics.geometric_mean(found):.2f})" if found else "-"
