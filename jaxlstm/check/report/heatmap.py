"""A grid of numbers as an SVG heat map on a logarithmic scale."""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape

from jaxlstm._shared.table import format_number
from jaxlstm.check.report.item import Heatmap

WIDTH, HEIGHT, LEFT = 300, 150, 36
"""Largest size of a map and the width of its labels. It fits a phone without scaling."""

COLUMN, ROW, MAX_CELLS = 20, 14, 96
"""Largest size of a cell, and the largest number of cells in a row or column."""

DECADES = 6
"""Smallest range of the color scale, in orders of magnitude, so that rounding stays faint."""

SHADES = 24


def heatmap_svg(grid: Heatmap) -> str:
    """Return an HTML figure whose caption names the largest number and its place."""
    if not grid.rows or not grid.rows[0]:
        return ""
    entries = [(value, x, y) for y, row in enumerate(grid.rows) for x, value in enumerate(row)]
    worst, x, y = max(entries, key=lambda entry: (not math.isfinite(entry[0]), entry[0]))
    top = max((value for value, _, _ in entries if math.isfinite(value)), default=0.0)
    where = f"{grid.x} {x}, {grid.labels[y] if grid.labels else f'{grid.y} {y}'}"
    subtitle = f"largest: {format_number(worst)} at {where}" if worst else "zero everywhere"
    low = grid.floor or top / 10**DECADES
    top = max(top, low * 10**DECADES)
    rows = _thinned([_thinned(row) for row in grid.rows])
    width, height = min(WIDTH, COLUMN * len(rows[0])), min(HEIGHT, ROW * len(rows))
    drawn = [
        f'<svg x="{LEFT}" width="{width}" height="{height}" viewBox="0 0 {len(rows[0])} {len(rows)}" '
        f'preserveAspectRatio="none" shape-rendering="crispEdges">{"".join(_paths(rows, low, top))}</svg>',
        f'<rect x="{LEFT}" width="{width}" height="{height}" class="frame"/>',
        *_axes(grid, height),
        *_legend(low, top, height + 26),
    ]
    return (
        f"<figure><figcaption>{escape(grid.title)}<small>{escape(subtitle)}</small></figcaption>"
        f'<svg viewBox="0 0 {LEFT + WIDTH + 4} {height + 50}" role="img" '
        f'aria-label="{escape(grid.title)}">{"".join(drawn)}</svg></figure>'
    )


def _paths(rows: list[list[float]], low: float, top: float) -> Iterator[str]:
    """Yield one path for each shade, made of runs of cells."""
    runs: dict[int, list[str]] = {}
    for y, row in enumerate(rows):
        shades = [round(SHADES * _shade(value, low, top)) for value in row]
        start = 0
        for x in range(1, len(shades) + 1):
            if x == len(shades) or shades[x] != shades[start]:
                runs.setdefault(shades[start], []).append(f"M{start} {y}h{x - start}v1H{start}z")
                start = x
    for shade, parts in sorted(runs.items()):
        if shade:
            yield f'<path class="heat" fill-opacity="{shade / SHADES:.2f}" d="{"".join(parts)}"/>'


def _axes(grid: Heatmap, height: int) -> Iterator[str]:
    """Yield the range and name of each axis, or the labels of the rows."""
    yield f'<text x="{LEFT}" y="{height + 12}">{escape(grid.x)} 0 to {len(grid.rows[0]) - 1}</text>'
    if grid.labels:
        step = height / len(grid.labels)
        for y, label in enumerate(grid.labels):
            yield f'<text x="{LEFT - 4}" y="{step * (y + 0.5) + 3:g}" class="end">{escape(label)}</text>'
        return
    yield f'<text x="{LEFT - 4}" y="9" class="end">0</text>'
    yield f'<text x="{LEFT - 4}" y="{height}" class="end">{len(grid.rows) - 1}</text>'
    if len(grid.rows) > 4:  # There is room for the name.
        turned = f'transform="translate(10 {height / 2:g}) rotate(-90)"'
        yield f'<text {turned} class="middle">{escape(grid.y)}</text>'


def _legend(low: float, top: float, y: int) -> Iterator[str]:
    """Yield the color scale with its smallest and largest number."""
    if not top:
        return
    yield f'<text x="{LEFT}" y="{y + 9}">{format_number(low)}</text>'
    for step in range(DECADES + 1):
        yield (
            f'<rect x="{LEFT + 50 + 12 * step}" y="{y}" width="12" height="10" class="heat" '
            f'fill-opacity="{step / DECADES:.2f}"/>'
        )
    yield f'<rect x="{LEFT + 50}" y="{y}" width="{12 * (DECADES + 1)}" height="10" class="frame"/>'
    yield f'<text x="{LEFT + 56 + 12 * (DECADES + 1)}" y="{y + 9}">{format_number(top)}</text>'


def _shade(value: float, low: float, top: float) -> float:
    if not math.isfinite(value):
        return 1.0
    return math.log(value / low) / math.log(top / low) if value > low else 0.0


def _thinned(entries: list) -> list:
    """Reduce numbers or rows to at most MAX_CELLS, each the elementwise maximum of its group."""
    step = math.ceil(len(entries) / MAX_CELLS)
    groups = (entries[start : start + step] for start in range(0, len(entries), step))
    return [
        max(g) if isinstance(g[0], float) else [max(column) for column in zip(*g, strict=True)]
        for g in groups
    ]
