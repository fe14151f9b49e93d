"""The sections of a report, as text and as an HTML page without scripts, fonts or links to other files."""

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from jaxlstm._shared.table import table


class Section(NamedTuple):
    """A section of a report, for the writers of text and HTML.

    Attributes:
      rows: lines of one cell each, names with their values, or the rows of a table.
      header: the columns of a table, of which the first is a status.
      numbers: the columns that are aligned right.
    """

    heading: str
    rows: Sequence[tuple[str, ...]] = ()
    header: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()


def lines_section(heading: str, lines: Iterable[str]) -> Section:
    """Return a section of lines."""
    return Section(heading, [(line,) for line in lines])


def section_text(section: Section) -> Iterator[str]:
    """Yield the heading and the indented lines of a section; nothing without lines."""
    lines = (": ".join(row) for row in section.rows)
    if section.header and section.rows:
        lines = table(section.header, section.rows, right=section.numbers).splitlines()
    indented = [f"  {line}" for line in lines]
    if indented:
        yield f"{section.heading}:"
        yield from indented


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
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .35rem 1rem .35rem 0; border-bottom: 1px solid #8884;
  vertical-align: top; }
th { color: var(--none); font-weight: 500; } .n { text-align: right; white-space: nowrap; }
.ok, .equal { color: var(--ok); } .failed, .differs { color: var(--bad); } .untested { color: var(--none); }
"""


def page(verdict: str, ok: bool, header: Sequence[str], sections: Iterable[Section]) -> str:
    """Return a page. ``verdict`` is its title; ``header`` starts with the verdict in one word."""
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
