"""A report in color on a terminal. It needs ``rich`` (extra ``cli``), imported on use."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from jaxlstm.check.report.data import ReportData
from jaxlstm.check.report.format import format_number
from jaxlstm.check.report.text import full_text

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_STYLES = {"ok": "green", "FAILED": "bold red", "untested": "yellow"}


def show(report: ReportData) -> None:
    """Print a report. Without rich or a terminal, print plain text."""
    console = console_of_stdout()
    if console is None:
        print(full_text(report))
        return
    for part in _parts(report):
        console.print(part)


def show_text(text: str) -> None:
    """Print text with the words of the verdict in color."""
    console = console_of_stdout()
    if console is None:
        print(text)
        return
    from rich.text import Text

    colored = Text(text)
    for word, style in (*_STYLES.items(), ("HOLDS", "bold green"), ("DOES NOT HOLD", "bold red")):
        colored.highlight_regex(rf"\b{word}\b", style)
    console.print(colored, soft_wrap=True)


def console_of_stdout() -> Console | None:
    """Return a rich console, or None if standard output takes plain text."""
    if not sys.stdout.isatty():
        return None
    try:
        from rich.console import Console
    except ModuleNotFoundError:
        return None
    return Console(highlight=False)


def _parts(report: ReportData) -> Iterable[RenderableType]:
    """Yield the parts of the report in the order of :func:`full_text`."""
    from rich.panel import Panel
    from rich.text import Text

    tone = "green" if report.ok else "red"
    verdict = Text.assemble(
        (report.word, f"bold {tone}"), f"  {report.title}  ", (report.counts, "dim")
    )
    yield Panel(verdict, border_style=tone, expand=False)
    for place, line in enumerate(report.diagnosis):
        yield Text(line, style="" if place else "bold")
    yield _items(report)
    if report.difference:
        yield _heading(f"Gates at {report.difference.place.where}")
        for gate in report.difference.summary():
            yield Text(f"  {gate}", style="red" if gate.off else "green")
    if report.notes:
        yield _heading("Notes")
        yield from (Text(f"  {note}") for note in report.notes)
    for name, pairs in (("Settings", report.settings), ("Environment", report.environment)):
        if pairs:
            yield _heading(name)
            yield _pairs(pairs)
    if report.again:
        yield _heading("Reproduce")
        yield Text(f"  {report.again}")


def _items(report: ReportData) -> RenderableType:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("status", "item", "measured", "limit", "detail"):
        table.add_column(name, justify="right" if name in ("measured", "limit") else "left")
    for item in report.items:
        table.add_row(
            Text(item.status, style=_STYLES[item.status]),
            *map(
                Text,
                (item.name, format_number(item.measured), format_number(item.limit), item.detail),
            ),
        )
    return table


def _pairs(pairs: Mapping[str, Any]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for key, value in pairs.items():
        table.add_row(Text(f"  {key}", style="dim"), Text(str(value)))
    return table


def _heading(name: str) -> RenderableType:
    from rich.text import Text

    return Text(name, style="bold")
