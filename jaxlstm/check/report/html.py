"""A report as one self-contained HTML page, without scripts, fonts or links to other files."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path

import numpy as np

from jaxlstm._shared.table import format_number
from jaxlstm.check.report.item import Heatmap, Section

_START = (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="generator" content="jaxlstm">'
)

_STYLE = """
:root { color-scheme: light dark; --ok: #1a7f37; --bad: #b3261e; --none: #666; --paper: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --ok: #57c878; --bad: #ff8a80; --none: #a5a5a5; --paper: #151515; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 0 auto; padding: 1rem;
  background: var(--paper); overflow-wrap: anywhere; }
.holds { --tone: var(--ok); } .fails { --tone: var(--bad); }
header { border: 1px solid #8884; border-left: .5rem solid var(--tone); padding: 1rem; }
header p { margin: 0; } h1 { font-size: 1.35rem; margin: .6rem 0 0; }
h2 { font-size: 1.05rem; margin: 2.2rem 0 .6rem; }
.verdict { display: inline-block; font-weight: 700; padding: .1rem .7rem; border-radius: .3rem;
  color: var(--paper); background: var(--tone); }
section { overflow-x: auto; } .diagnosis li:first-child { font-weight: 600; }
.reproduce { font-family: monospace; }
figure { display: inline-block; width: 20rem; max-width: 100%; margin: 0 2rem 1.5rem 0; vertical-align: top; }
figcaption { font-weight: 600; margin-bottom: .4rem; }
small { display: block; font-weight: 400; color: var(--none); }
svg { display: block; max-width: 100%; border: 1px solid #8888; fill: var(--tone); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .35rem 1rem .35rem 0; border-bottom: 1px solid #8884;
  vertical-align: top; }
th { color: var(--none); font-weight: 500; } .n { text-align: right; white-space: nowrap; }
.ok, .equal { color: var(--ok); } .failed, .differs { color: var(--bad); } .untested { color: var(--none); }
"""


def page(verdict: str, ok: bool, header: Sequence[str], sections: Iterable[Section]) -> str:
    """Return the page. ``verdict`` is its title; ``header`` starts with the verdict in one word."""
    word, name, *below = map(escape, header)
    lines = "".join(f"<p>{line}</p>" for line in below)
    body = "\n".join(part for section in sections if (part := _section(section)))
    return (
        f'{_START}<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(verdict)}</title><style>{_STYLE}</style></head>"
        f'<body><main class="{"holds" if ok else "fails"}">\n'
        f'<header><p class="verdict">{word}</p><h1>{name}</h1>{lines}</header>\n'
        f"{body}\n</main></body></html>\n"
    )


def is_html_page(path: Path) -> bool:
    """Return True if :func:`page` made the file."""
    start = _START.encode()
    with open(path, "rb") as file:
        return file.read(len(start)) == start


def _section(section: Section) -> str:
    """Return a section; nothing if it is empty."""
    content = _table(section) if any(len(row) > 1 for row in section.rows) else _list(section)
    content += "".join(map(heatmap_svg, section.heatmaps))
    return f"<section><h2>{escape(section.heading)}</h2>{content}</section>" if content else ""


def _list(section: Section) -> str:
    entries = "".join(f"<li>{escape(line)}</li>" for (line,) in section.rows)
    return f'<ul class="{section.heading.lower()}">{entries}</ul>' if entries else ""


def _table(section: Section) -> str:
    """Return a table. The class of a status is its word."""

    def row(cells: Sequence[str], tag: str) -> str:
        classes = ["n" if k in section.numbers else "" for k in range(len(cells))]
        if section.header and tag == "td":
            classes[0] = cells[0].lower()
        attributes = [f' class="{name}"' if name else "" for name in classes]
        shown = (f"<{tag}{a}>{escape(c)}</{tag}>" for a, c in zip(attributes, cells, strict=True))
        return f"<tr>{''.join(shown)}</tr>"

    head = f"<thead>{row(section.header, 'th')}</thead>" if section.header else ""
    return f"<table>{head}<tbody>{''.join(row(cells, 'td') for cells in section.rows)}</tbody></table>"


WIDTH, HEIGHT = 300, 150
"""Largest size of a heat map. It fits a phone without scaling."""

COLUMN, ROW, MAX_CELLS = 20, 14, 96
"""Largest size of a cell, and the largest number of cells in a row or column."""

DECADES = 6
"""Smallest range of the color scale, in orders of magnitude, so that rounding stays faint."""

SHADES = 24


def heatmap_svg(grid: Heatmap) -> str:
    """Return an HTML figure whose caption names the axes, the scale, and the largest number and its place."""
    values = np.array(grid.rows, np.float64)
    if not values.size:
        return ""
    y, x = np.unravel_index(np.argmax(np.where(np.isfinite(values), values, np.inf)), values.shape)
    where = f"{grid.x} {x}, {grid.labels[y] if grid.labels else f'{grid.y} {y}'}"
    worst = float(values[y, x])
    top = float(np.max(values, initial=0.0, where=np.isfinite(values)))
    low = grid.floor or top / 10**DECADES
    top = max(top, low * 10**DECADES)
    last_y, last_x = np.subtract(values.shape, 1)
    rows = ", ".join(grid.labels) or f"{grid.y} 0 to {last_y}"
    below = (
        f"largest: {format_number(worst)} at {where}" if worst else "zero everywhere",
        f"{grid.x} 0 to {last_x} from left to right, {rows} from top to bottom",
        *([f"shades from {format_number(low)} to {format_number(top)}, logarithmic"] if top else []),
    )
    shades = _thinned(np.rint(SHADES * _shades(values, low, top)).astype(int))
    height, width = shades.shape
    return (
        f"<figure><figcaption>{escape(grid.title)}{''.join(f'<small>{escape(b)}</small>' for b in below)}"
        f'</figcaption><svg width="{min(WIDTH, COLUMN * width)}" height="{min(HEIGHT, ROW * height)}" '
        f'viewBox="0 0 {width} {height}" preserveAspectRatio="none" shape-rendering="crispEdges" role="img" '
        f'aria-label="{escape(grid.title)}">{"".join(_paths(shades))}</svg></figure>'
    )


@np.errstate(all="ignore")  # Zeros have no logarithm.
def _shades(values: np.ndarray, low: float, top: float) -> np.ndarray:
    """Return numbers from 0 to 1 on a logarithmic scale; NaN and infinity get 1."""
    finite = np.where(values > low, np.log(values / low) / math.log(top / low) if low else 0.0, 0.0)
    return np.where(np.isfinite(values), finite, 1.0)


def _thinned(shades: np.ndarray) -> np.ndarray:
    """Reduce rows and columns to at most MAX_CELLS, each the elementwise maximum of its group."""
    for axis, size in enumerate(shades.shape):
        starts = np.arange(0, size, math.ceil(size / MAX_CELLS))
        shades = np.maximum.reduceat(shades, starts, axis)
    return shades


def _paths(shades: np.ndarray) -> Iterator[str]:
    """Yield one path for each shade, made of runs of cells."""
    runs: dict[int, list[str]] = {}
    for y, row in enumerate(shades.tolist()):
        x = 0
        for shade, cells in itertools.groupby(row):
            width = len(list(cells))
            runs.setdefault(shade, []).append(f"M{x} {y}h{width}v1H{x}z")
            x += width
    for shade, parts in sorted(runs.items()):
        if shade:
            yield f'<path fill-opacity="{shade / SHADES:.2f}" d="{"".join(parts)}"/>'
