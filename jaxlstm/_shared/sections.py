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


def page(title: str, text: str) -> str:
    """Return a page with a title above a text."""
    return (
        f'{_START}<meta name="color-scheme" content="light dark"><title>{escape(title)}</title></head>\n'
        f"<body><h1>{escape(title)}</h1>\n<pre>{escape(text)}</pre></body></html>\n"
    )


def is_html_page(path: Path) -> bool:
    """Return True if :func:`page` made the file."""
    start = _START.encode()
    with open(path, "rb") as file:
        return file.read(len(start)) == start
