"""A measurement as a picture: bars of how many times jaxlstm's time each side takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxlstm.bench.measure import OWN
from jaxlstm.bench.report import ratio

BAR = 0.8  # of the room of one size, shared by its bars


def write_chart(
    path: Path, rows: Sequence[dict[str, Any]], names: Sequence[str], title: str
) -> None:
    """Write a PNG: one panel a mode, one group a size, one bar a side; jaxlstm is the line at 1."""
    figure = draw(rows, names, title)
    figure.savefig(path, format="png", dpi=120)


def draw(rows: Sequence[dict[str, Any]], names: Sequence[str], title: str) -> Any:
    """The picture as a ``matplotlib.figure.Figure``; no display is opened."""
    from matplotlib.figure import Figure

    modes = list(dict.fromkeys(row["mode"] for row in rows))
    tall = [sum(row["mode"] == mode for row in rows) for mode in modes]
    height = 1.5 + (0.4 + 0.16 * len(names)) * sum(tall)
    figure = Figure(figsize=(9, height), layout="constrained")
    figure.suptitle(title, fontsize=9)
    panels = figure.subplots(len(modes), squeeze=False, height_ratios=tall)[:, 0]
    for panel, mode in zip(panels, modes, strict=True):
        _panel(panel, [row for row in rows if row["mode"] == mode], names, mode)
    return figure


def _panel(panel: Any, rows: Sequence[dict[str, Any]], names: Sequence[str], mode: str) -> None:
    width = BAR / max(len(names), 1)
    for k, name in enumerate(names):
        ratios = [ratio(row, name) for row in rows]
        places = [n - BAR / 2 + (k + 0.5) * width for n, r in enumerate(ratios) if r is not None]
        bars = panel.barh(
            places, [r for r in ratios if r is not None], width, color=f"C{k}", label=name
        )
        panel.bar_label(bars, fmt="%.2f", fontsize=6, padding=2)
    panel.axvline(1, color="black", linewidth=1)
    panel.set_yticks(range(len(rows)), [row["size"] for row in rows], fontsize=7)
    panel.invert_yaxis()
    panel.set_xlabel(f"{mode}: time / time of {OWN}; right of the line {OWN} is faster", fontsize=8)
    if names:
        panel.legend(fontsize=7)
