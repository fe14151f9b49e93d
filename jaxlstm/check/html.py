"""A report as one self-contained HTML page: no script, no font, no address outside it."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from jaxlstm.check.picture import picture
from jaxlstm.check.report import Item, number

if TYPE_CHECKING:
    from jaxlstm.check.report import Report

_STYLE = """
:root { color-scheme: light dark; --ok: #1a7f37; --bad: #b3261e; --none: #6b6b6b; --line: #8884;
  --heat: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --ok: #57c878; --bad: #ff8a80; --none: #a5a5a5; --heat: #ff8a80; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
.verdict { font-weight: 700; padding: .6rem .9rem; border-left: .4rem solid; }
.ok { color: var(--ok); } .failed { color: var(--bad); } .untested { color: var(--none); }
main.holds { --heat: var(--ok); }
.wide, pre, figure { overflow-x: auto; }
figure { margin: 1.5rem 0; } figcaption { font-weight: 600; } svg { width: 100%; height: auto; }
svg text { fill: currentColor; font: 7px system-ui, sans-serif; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .7rem .3rem 0; border-bottom: 1px solid var(--line);
         vertical-align: top; overflow-wrap: anywhere; }
th.n, td.n { text-align: right; white-space: nowrap; }
td.s { white-space: nowrap; font-weight: 600; }
.pairs td:first-child { white-space: nowrap; width: 1%; color: var(--none); }
@media (max-width: 40rem) {
  thead { display: none; }
  .items tr { display: block; padding: .5rem 0; border-bottom: 1px solid var(--line); }
  td, td.n, .pairs td:first-child { display: block; border: 0; padding: 0; text-align: left; width: auto; }
  .pairs td + td { padding-bottom: .4rem; }
  .items td.n:not(:empty)::before { content: attr(data-label) ": "; color: var(--none); }
}
"""


def page(report: Report) -> str:
    """The whole page: the verdict first, then the diagnosis, the items, and what was in force."""
    status = "ok" if report.ok else "failed"
    items = sorted(report.items, key=lambda item: item.ok is not False)  # failures first
    body = [
        f"<h1>{escape(report.title)}</h1>",
        f'<p class="verdict {status}">{escape(report.verdict)}</p>',
        _list("Diagnosis", report.diagnosis),
        "<h2>Items</h2>",
        '<div class="wide"><table class="items"><thead><tr><th>Status</th><th>Item</th>'
        '<th class="n">Measured</th><th class="n">Limit</th><th>Detail</th></tr></thead><tbody>',
        *map(_row, items),
        "</tbody></table></div>",
        *map(picture, report.pictures),
        _list("Notes", report.notes),
        _pairs("Settings", report.settings),
        _pairs("Environment", report.environment),
        f"<h2>Again</h2><pre>{escape(report.again)}</pre>" if report.again else "",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(report.verdict)}</title><style>{_STYLE}</style></head>"
        f'<body><main class="{"holds" if report.ok else "fails"}">\n'
        + "\n".join(part for part in body if part)
        + "\n</main></body></html>\n"
    )


def _row(item: Item) -> str:
    return (
        f'<tr><td class="s {item.status.lower()}">{item.status}</td><td>{escape(item.name)}</td>'
        f'<td class="n" data-label="measured">{number(item.measured)}</td>'
        f'<td class="n" data-label="limit">{number(item.limit)}</td>'
        f"<td>{escape(item.detail)}</td></tr>"
    )


def _list(heading: str, lines: tuple[str, ...]) -> str:
    if not lines:
        return ""
    return f"<h2>{heading}</h2><ul>" + "".join(f"<li>{escape(x)}</li>" for x in lines) + "</ul>"


def _pairs(heading: str, pairs: Mapping[str, Any]) -> str:
    if not pairs:
        return ""
    rows = "".join(
        f"<tr><td>{escape(str(key))}</td><td>{escape(str(value))}</td></tr>"
        for key, value in pairs.items()
    )
    return f'<h2>{heading}</h2><div class="wide"><table class="pairs">{rows}</table></div>'
