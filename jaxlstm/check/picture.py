"""A grid of numbers as an SVG heat map: the stronger, the larger, on a logarithmic scale."""

from __future__ import annotations

import math
from html import escape

from jaxlstm.check.report import Picture, number

CELL, LEFT, BOTTOM, MOST = 10, 26, 30, 96
DECADES = 6.0
"""Orders of magnitude below the largest number that still show."""


def picture(grid: Picture) -> str:
    """A figure with a caption that tells the largest number and where it is."""
    rows = _thinned([_thinned(row) for row in grid.rows])
    top = max((value for row in rows for value in row), default=0.0)
    height, width = len(rows), max(map(len, rows), default=0)
    if not width:
        return ""
    cells = [
        f'<rect x="{LEFT + x * CELL}" y="{y * CELL}" width="{CELL}" height="{CELL}" '
        f'fill="var(--heat)" fill-opacity="{_shade(value, top):.2f}"/>'
        for y, row in enumerate(rows)
        for x, value in enumerate(row)
        if _shade(value, top) > 0
    ]
    full_height, full_width = height * CELL + BOTTOM, LEFT + width * CELL + 2
    frame = (
        f'<rect x="{LEFT}" y="0" width="{width * CELL}" height="{height * CELL}" fill="none" '
        'stroke="currentColor" stroke-opacity="0.4"/>'
    )
    labels = (
        f'<text x="{LEFT}" y="{height * CELL + 18}">{escape(grid.x)} 0 to {len(grid.rows[0]) - 1}</text>'
        f'<text transform="translate(16 {height * CELL}) rotate(-90)">{escape(grid.y)}</text>'
    )
    caption = f"{grid.title} (strongest: {number(top)}, over {DECADES:g} orders of magnitude)"
    return (
        f"<figure><figcaption>{escape(caption)}</figcaption>"
        f'<svg viewBox="0 0 {full_width} {full_height}" '
        f'style="min-width:{full_width}px;max-width:{2 * full_width}px" '
        f'role="img" aria-label="{escape(caption)}">{"".join(cells)}{frame}{labels}</svg></figure>'
    )


def _shade(value: float, top: float) -> float:
    if not math.isfinite(value):
        return 1.0
    if value <= 0 or top <= 0:
        return 0.0
    top = top if math.isfinite(top) else 1.0
    return min(1.0, max(0.0, 1 + math.log10(value / top) / DECADES))


def _thinned(entries: list) -> list:
    """At most MOST entries, each the largest of its neighbours, number by number."""
    step = math.ceil(len(entries) / MOST)
    if step <= 1:
        return entries
    groups = (entries[start : start + step] for start in range(0, len(entries), step))
    return [
        max(g) if isinstance(g[0], float) else [max(column) for column in zip(*g, strict=True)]
        for g in groups
    ]
