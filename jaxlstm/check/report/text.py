"""The parts of a report as plain text, and in color on a terminal, by ``rich`` (extra ``cli``)."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from jaxlstm._shared.table import table
from jaxlstm.check.report.item import Item, Section


def section_text(section: Section) -> Iterator[str]:
    """Yield the heading and the indented lines of a section; nothing without lines."""
    lines = (": ".join(row) for row in section.rows)
    if section.header and section.rows:
        lines = table(section.header, section.rows, right=section.numbers).splitlines()
    indented = [f"  {line}" for line in lines]
    if indented:
        yield f"{section.heading}:"
        yield from indented


def matrix_table(items: Iterable[Item]) -> str:
    """Return the items of ``verify_matrix`` as a grid, with one column for each length."""
    cells: dict[str, dict[str, str]] = {}
    for item in items:
        shown = item.status if item.measured is None else f"{item.status} {item.measured:.2g}"
        cells.setdefault(item.data["row"], {})[item.data["column"]] = shown
    columns = list(next(iter(cells.values()), ()))
    rows = [(label, *(row[column] for column in columns)) for label, row in cells.items()]
    return table(("", *columns), rows, right=range(1, len(columns) + 1))


def call_text(
    function: str, arguments: Sequence[str], options: Mapping[str, Any], defaults: Mapping[str, Any]
) -> str:
    """Return a call of a function of ``jaxlstm.check``, without the options that have their default."""
    given = {k: v for k, v in options.items() if k not in defaults or v != defaults[k]}
    parts = [*arguments, *(f"{name}={value!r}" for name, value in given.items())]
    return f"jaxlstm.check.{function}({', '.join(parts)})"


_STYLES = {
    r"\bok\b": "green",
    r"\buntested\b": "yellow",
    r"\bHOLDS\b": "bold green",
    r"\b(FAILED|DOES NOT HOLD)\b": "bold red",
    r"(?m)^[A-Z].*:$": "bold",  # Headings.
}


def show_text(text: str) -> None:
    """Print text with the words of a verdict in color. Without rich or a terminal, print plain text."""
    if not sys.stdout.isatty():
        print(text)
        return
    try:
        from rich.console import Console
        from rich.text import Text
    except ModuleNotFoundError:
        print(text)
        return
    colored = Text(text)
    for pattern, style in _STYLES.items():
        colored.highlight_regex(pattern, style)
    Console(highlight=False).print(colored, soft_wrap=True)
