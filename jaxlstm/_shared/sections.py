"""The sections of a report as text, and an HTML page without scripts, fonts or links to other files."""

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from jaxlstm._shared.table import table


class Section(NamedTuple):
    """A section of a report.

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
:root { color-scheme: light dark; --ok: #1a7f37; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ok: #57c878; --bad: #ff8a80; } }
body { margin: 0 auto; max-width: 72rem; padding: 1rem; font-family: system-ui, sans-serif; }
h1 { border-left: .5rem solid; font-size: 1.35rem; padding: .6rem 1rem; }
.holds h1 { color: var(--ok); } .fails h1 { color: var(--bad); } pre { overflow-x: auto; }
"""


def page(title: str, ok: bool, text: str) -> str:
    """Return a page with a title, which has the color of ``ok``, above a text."""
    return (
        f'{_START}<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>"
        f'<body class="{"holds" if ok else "fails"}">\n'
        f"<h1>{escape(title)}</h1>\n<pre>{escape(text)}</pre>\n</body></html>\n"
    )


def is_html_page(path: Path) -> bool:
    """Return True if :func:`page` made the file."""
    start = _START.encode()
    with open(path, "rb") as file:
        return file.read(len(start)) == start
