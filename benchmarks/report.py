"""Results as text, as JSON and as a bar chart."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.layer import OWN
from jaxlstm._shared.table import table

Row = dict[str, Any]


def ratio(row: Row, name: str) -> float | None:
    """Return a library's time over jaxlstm's, or None if either was not timed."""
    ms = row["ms"]
    return ms[name] / ms[OWN] if name in ms and OWN in ms else None


def mode_table(rows: Sequence[Row], names: Sequence[str]) -> str:
    """Return milliseconds and ratios as a table whose last line holds the geometric means of the ratios."""
    header = ("T, B, I, H, layers", *(f"{name} ms" for name in (OWN, *names)))
    lines = [(row["size"], *(_cell(row, name) for name in (OWN, *names))) for row in rows]
    means = ("geometric mean", "", *(_mean(rows, name) for name in names))
    return table(header, [*lines, means])


def remarks(rows: Sequence[Row]) -> list[str]:
    """List each reason for a gap in the table once, with the sizes that it applies to."""
    sizes: dict[str, list[str]] = {}
    for row in rows:
        for name, reason in row["left_out"].items():
            sizes.setdefault(f"- {name}: {reason}", []).append(row["size"])
        for name, fault in row["wrong"].items():
            sizes.setdefault(f"WRONG, not timed: {name}: {fault}", []).append(row["size"])
    return [f"{remark} ({'; '.join(labels)})" for remark, labels in sizes.items()]


def _cell(row: Row, name: str) -> str:
    if name in row["wrong"]:
        return "wrong"
    if name not in row["ms"]:
        return "-"
    ms, value = f"{row['ms'][name]:.3g}", ratio(row, name)
    return ms if name == OWN or value is None else f"{ms} ({value:.2f})"


def _mean(rows: Sequence[Row], name: str) -> str:
    ratios = [value for row in rows if (value := ratio(row, name)) is not None]
    return f"({statistics.geometric_mean(ratios):.2f})" if ratios else "-"


def write_chart(path: Path, rows: Sequence[Row], names: Sequence[str], title: str) -> None:
    """Write a PNG: one panel per mode, one group per size, one bar per library, jaxlstm as the line at 1."""
    from matplotlib.figure import Figure

    modes = list(dict.fromkeys(row["mode"] for row in rows))
    heights = [sum(row["mode"] == mode for row in rows) for mode in modes]
    size = (9, 1.5 + (0.4 + 0.16 * len(names)) * sum(heights))
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, fontsize=9)
    panels = figure.subplots(len(modes), squeeze=False, height_ratios=heights)[:, 0]
    for panel, mode in zip(panels, modes, strict=True):
        _draw(panel, [row for row in rows if row["mode"] == mode], names)
        panel.set_xlabel(f"{mode}: time / time of {OWN}; above 1 {OWN} is faster", fontsize=8)
    figure.savefig(path, format="png", dpi=120)


def _draw(panel: Any, rows: Sequence[Row], names: Sequence[str]) -> None:
    width = 0.8 / max(len(names), 1)
    for k, name in enumerate(names):
        bars = [(n, value) for n, row in enumerate(rows) if (value := ratio(row, name)) is not None]
        places = [n - 0.4 + (k + 0.5) * width for n, _ in bars]
        drawn = panel.barh(places, [value for _, value in bars], width, color=f"C{k}", label=name)
        panel.bar_label(drawn, fmt="%.2f", fontsize=6, padding=2)
    panel.axvline(1, color="black", linewidth=1)
    panel.set_yticks(range(len(rows)), [row["size"] for row in rows], fontsize=7)
    panel.invert_yaxis()
    if names:
        panel.legend(fontsize=7)


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write a measurement with one line for each key and for each row of a table."""
    path.write_text("{\n" + ",\n".join(_json_lines(document)) + "\n}\n", encoding="utf-8")


def _json_lines(document: dict[str, Any]) -> Iterator[str]:
    for key, value in document.items():
        if isinstance(value, list):
            rows = ",\n    ".join(map(json.dumps, value))
            yield (f"  {json.dumps(key)}: [\n    {rows}\n  ]" if value else f"  {json.dumps(key)}: []")
        elif isinstance(value, dict) and any(isinstance(item, dict) for item in value.values()):
            items = (f"{json.dumps(name)}: {json.dumps(item)}" for name, item in value.items())
            yield f"  {json.dumps(key)}: {{\n    " + ",\n    ".join(items) + "\n  }"
        else:
            yield f"  {json.dumps(key)}: {json.dumps(value)}"
