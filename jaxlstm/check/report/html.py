"""The parts of a report as one self-contained HTML page, without scripts, fonts or links to other files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from jaxlstm._shared.table import format_number
from jaxlstm.check.report.difference import StepDifference
from jaxlstm.check.report.heatmap import heatmap_svg
from jaxlstm.check.report.item import Heatmap, Item, LayerDifference

_START = (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="generator" content="jaxlstm">'
)

_STYLE = """
:root { color-scheme: light dark; --ok: #1a7f37; --bad: #b3261e; --none: #666; --line: #8884;
  --card: #8881; --paper: #fff; --ink: #1b1b1b; }
@media (prefers-color-scheme: dark) {
  :root { --ok: #57c878; --bad: #ff8a80; --none: #a5a5a5; --paper: #151515; --ink: #eee; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 0 auto; padding: 1rem;
  background: var(--paper); color: var(--ink); }
.holds { --tone: var(--ok); } .fails { --tone: var(--bad); }
h1 { font-size: 1.35rem; margin: .6rem 0 0; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 2.2rem 0 .6rem; }
header { border: 1px solid var(--line); border-left: .5rem solid var(--tone); border-radius: .4rem;
  padding: 1rem 1.2rem; background: var(--card); }
header p { margin: 0; } header p + p, h1 + p { color: var(--none); margin-top: .2rem; }
.verdict { display: inline-block; font-weight: 700; padding: .1rem .7rem; border-radius: .3rem;
  color: var(--paper); background: var(--tone); }
.ok { color: var(--ok); } .failed { color: var(--bad); } .untested { color: var(--none); }
ul { padding-left: 1.2rem; } .diagnosis li:first-child { font-weight: 600; }
.side { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); gap: 0 3rem;
  align-items: start; }
pre { overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere; padding: .8rem 1rem;
  border-radius: .4rem; background: var(--card); }
figure { margin: 0 0 1.5rem; } figcaption { font-weight: 600; margin-bottom: .4rem; }
small { display: block; font-weight: 400; color: var(--none); font-size: .85rem; }
svg { display: block; width: 100%; max-width: 32rem; height: auto; overflow: visible; }
svg text { fill: currentColor; font: 10px system-ui, sans-serif; }
.end { text-anchor: end; } .middle { text-anchor: middle; }
.heat { fill: var(--tone); } .frame { fill: none; stroke: currentColor; stroke-opacity: .4; }
table { border-collapse: collapse; width: 100%; margin-bottom: 1rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .35rem 1rem .35rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; overflow-wrap: anywhere; }
th { color: var(--none); font-weight: 500; font-size: .85rem; white-space: nowrap; }
th.n, td.n { text-align: right; white-space: nowrap; }
td.s { white-space: nowrap; font-weight: 600; }
.items td:nth-child(2) { min-width: 12rem; } .pairs td:first-child { color: var(--none); min-width: 6rem; }
@media (max-width: 40rem) {
  th, td { padding-right: .3rem; } th { white-space: normal; overflow-wrap: normal; }
  .items thead { display: none; }
  .items tr, .pairs td { display: block; }
  .items tr { padding: .5rem 0; border-bottom: 1px solid var(--line); }
  .items td, .pairs td { border: 0; padding: 0; }
  .items td { display: inline; margin-right: .5rem; } .items td:last-child { display: block; }
  .items td.n { display: inline-block; }
  .pairs td + td { padding-bottom: .4rem; }
  .items td.n:not(:empty)::before { content: attr(data-label) " "; color: var(--none); }
}
"""


def page(verdict: str, ok: bool, header: str, parts: Iterable[str]) -> str:
    """Return the page: the header and the parts that are not empty. ``verdict`` is its title."""
    body = "\n".join(part for part in (header, *parts) if part)
    return (
        f'{_START}<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(verdict)}</title><style>{_STYLE}</style></head>"
        f'<body><main class="{"holds" if ok else "fails"}">\n{body}\n</main></body></html>\n'
    )


def is_html_page(path: Path) -> bool:
    """Return True if :func:`page` made the file."""
    start = _START.encode()
    with open(path, "rb") as file:
        return file.read(len(start)) == start


def header(word: str, title: str, counts: str, environment: Mapping[str, str]) -> str:
    """Return the verdict, the title, the counts, the versions and the device."""
    where = [f"{name} {environment[name]}" for name in ("jaxlstm", "jax", "torch") if name in environment]
    where += [environment["device"]] if "device" in environment else []
    below = [counts, *([" · ".join(where)] if where else [])]
    lines = "".join(f"<p>{escape(line)}</p>" for line in below)
    return f'<header><p class="verdict">{word}</p><h1>{escape(title)}</h1>{lines}</header>'


def items_table(items: Sequence[Item]) -> str:
    """Return a table of all items, the failures first."""
    rows = "".join(
        f'<tr><td class="s {item.status.lower()}">{item.status}</td><td>{escape(item.name)}</td>'
        f'<td class="n" data-label="measured">{format_number(item.measured)}</td>'
        f'<td class="n" data-label="limit">{format_number(item.limit)}</td>'
        f"<td>{escape(item.detail)}</td></tr>"
        for item in sorted(items, key=lambda item: item.ok is not False)
    )
    headings = (
        '<th>Status</th><th>Item</th><th class="n">Measured</th><th class="n">Limit</th><th>Detail</th>'
    )
    return f'<h2>Items</h2><table class="items">{_head_and_body(headings, rows)}</table>'


def layers_table(layers: Sequence[LayerDifference]) -> str:
    """Return the layers of a model as a table, in the order of calls."""
    rows = "".join(
        f'<tr><td class="s {"ok" if layer.ok else "failed"}">{"equal" if layer.ok else "differs"}</td>'
        f"<td>{escape(layer.name)}</td><td>{escape(layer.kind)}</td>"
        f'<td class="n">{layer.difference}</td></tr>'
        for layer in layers
    )
    headings = '<th>Status</th><th>Layer</th><th>Type</th><th class="n">Difference / largest element</th>'
    return f"<h2>Layers</h2><table>{_head_and_body(headings, rows)}</table>" if rows else ""


def gates(difference: StepDifference) -> str:
    """Return the gates of the first step that differs, as a table and as a heat map."""
    rows = "".join(
        f'<tr><td class="s {"failed" if gate.off else "ok"}">{escape(gate.gate)}</td>'
        f'<td class="n">{gate.off} of {gate.units}</td><td class="n">{gate.worst}</td>'
        f'<td class="n">{gate.actual:.5g}</td><td class="n">{gate.expected:.5g}</td></tr>'
        for gate in difference.summary()
    )
    numbers = ("Units that differ", "Worst unit", "Port", "Oracle")
    headings = "<th>Gate</th>" + "".join(f'<th class="n">{name}</th>' for name in numbers)
    errors = difference.errors()
    values = [row.tolist() for row in errors.values()]
    grid = Heatmap("Distance from the oracle", "unit", "gate", values, tuple(errors))
    heading = f"First difference from the oracle: {difference.place.where}"
    return side(heading, [f"<table>{_head_and_body(headings, rows)}</table>", heatmap_svg(grid)])


def side(heading: str, parts: Sequence[str]) -> str:
    """Return parts side by side, below a heading; nothing if all are empty."""
    if not any(parts):
        return ""
    return f'<h2>{escape(heading)}</h2><div class="side">{"".join(parts)}</div>'


def listing(heading: str, lines: Sequence[str]) -> str:
    """Return a list below its heading; nothing without lines."""
    entries = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<h2>{heading}</h2><ul class="{heading.lower()}">{entries}</ul>' if entries else ""


def pairs(heading: str, values: Mapping[str, Any]) -> str:
    """Return names and values as a table; nothing without values."""
    rows = "".join(
        f"<tr><td>{escape(str(key))}</td><td>{escape(str(value))}</td></tr>" for key, value in values.items()
    )
    return f'<section><h2>{heading}</h2><table class="pairs">{rows}</table></section>' if rows else ""


def _head_and_body(headings: str, rows: str) -> str:
    return f"<thead><tr>{headings}</tr></thead><tbody>{rows}</tbody>"
