"""A report as plain text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from jaxlstm._shared.table import format_number, table
from jaxlstm.check.report.data import Item, ReportData

FIRST_SCREEN = 5
"""Failures shown by :func:`first_screen`."""


def full_text(report: ReportData) -> str:
    """Return the whole report."""
    lines = [report.verdict, *_section("Diagnosis", report.diagnosis), "", _table(report.items)]
    if report.difference:
        heading = f"Gates at {report.difference.place.where}"
        lines += _section(heading, map(str, report.difference.summary()))
    if report.layers:
        lines += _section("Layers", _layers(report).splitlines())
    lines += _section("Notes", report.notes)
    for name, values in (("Settings", report.settings), ("Environment", report.environment)):
        lines += _section(name, (f"{key}: {value}" for key, value in values.items()))
    lines += _section("Reproduce", [report.again] if report.again else [])
    return "\n".join(lines)


def first_screen(report: ReportData) -> str:
    """Return the verdict, the diagnosis and the first failures."""
    items = report.failures or report.items
    lines = [report.verdict, *_section("Diagnosis", report.diagnosis), _table(items[:FIRST_SCREEN])]
    if len(items) > FIRST_SCREEN:
        lines.append(f"... and {len(items) - FIRST_SCREEN} more, in str(report)")
    return "\n".join(lines)


def matrix_table(report: ReportData) -> str:
    """Return the items of ``verify_matrix`` as a grid, with one column for each length."""
    cells: dict[str, dict[str, str]] = {}
    for item in report.items:
        dtype, batch, steps, mode = item.name.split(", ")
        cells.setdefault(f"{dtype}, {batch}, {mode}", {})[steps] = _cell(item)
    columns = list(next(iter(cells.values()), ()))
    rows = [(label, *(row[column] for column in columns)) for label, row in cells.items()]
    return table(("", *columns), rows, right=range(1, len(columns) + 1))


def _layers(report: ReportData) -> str:
    """Return the layers of a model as a table, in the order of calls."""
    rows = [
        ("equal" if layer.ok else "DIFFERS", layer.name, layer.kind, layer.difference)
        for layer in report.layers
    ]
    return table(("status", "layer", "type", "difference / largest element"), rows, right=(3,))


def _cell(item: Item) -> str:
    return item.status if item.measured is None else f"{item.status} {item.measured:.2g}"


def _table(items: Iterable[Item]) -> str:
    rows = [(i.status, i.name, format_number(i.measured), format_number(i.limit), i.detail) for i in items]
    return table(("status", "item", "measured", "limit", "detail"), rows, right=(2, 3))


def _section(heading: str, lines: Iterable[str]) -> Iterator[str]:
    indented = [f"  {line}" for line in lines]
    if indented:
        yield f"{heading}:"
        yield from indented
