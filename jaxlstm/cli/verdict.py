"""The text of ``jaxlstm check``: at most one screen, and the verdict as the last line."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from jaxlstm._shared.table import format_number, table
from jaxlstm.cli.merged import Reports

if TYPE_CHECKING:
    from jaxlstm.check import Item, Report

NOT_RUN = "not run: JAX finds no such device"
FAILURES = 5
"""Failed items that are shown without ``--verbose``."""
EXPLANATIONS = 5
"""Lines of the diagnosis that are shown without ``--verbose``."""


def verdict_text(args: argparse.Namespace, subject: str, reports: Reports, absent: Sequence[str]) -> str:
    """Return the text for the reports of all runs.

    ``--verbose`` gives every report in full, with settings and environment. ``subject`` names the code under
    test. ``absent`` lists the backends without a device.
    """
    runs = {f"{backend} {dtype}": report for (backend, dtype), report in reports.items()}
    title = f"{args.checkpoint}: {subject}"
    ok = all(report.ok for report in reports.values())
    if args.verbose:
        paragraphs = [str(report) for report in reports.values()]
    elif args.matrix:
        paragraphs = [*_grids(runs), *_problems(runs)]
    else:
        failed = any(report.failures for report in reports.values())
        paragraphs = [*([] if failed else [_items(runs)]), *_problems(runs)]
    if absent:
        paragraphs.append("\n".join(f"{backend}: {NOT_RUN}" for backend in absent))
    counts = "; ".join(f"{run}: {report.counts}" for run, report in runs.items())
    more = "" if ok or args.verbose else "; --verbose shows every item"
    verdict = f"{title} {'HOLDS' if ok else 'DOES NOT HOLD'} ({counts}){more}"
    return "\n\n".join([*paragraphs, verdict])


def _items(runs: dict[str, Report]) -> str:
    """Return a table with a row for each item and a column for each run. No item failed."""
    found = {run: {item.name: item for item in report.items} for run, report in runs.items()}
    names = dict.fromkeys(name for items in found.values() for name in items)
    rows = [(name, *(_cell(items.get(name)) for items in found.values())) for name in names]
    return table(("item", *runs), rows)


def _cell(item: Item | None) -> str:
    """Return "3.3e-16 <= 1.4e-14" for an item with a number, or else its status."""
    if item is None:
        return ""
    if item.measured is None:
        return item.status
    return f"{format_number(item.measured)} <= {format_number(item.limit)}"


def _grids(runs: dict[str, Report]) -> Iterator[str]:
    from jaxlstm.check.report.text import matrix_table

    for run, report in runs.items():
        yield f"{run}\n{matrix_table(report.items)}"
    yield (
        "float64: largest absolute difference from torch or the oracle; other dtypes: RMS error divided by "
        "the RMS error of correct implementations"
    )


def _problems(runs: dict[str, Report]) -> Iterator[str]:
    """Yield paragraphs with the first failures, the diagnosis and the notes."""
    failures = [f"FAILED {run}, {item.name}: {item.detail}" for run, r in runs.items() for item in r.failures]
    if len(failures) > FAILURES:
        failures[FAILURES:] = [f"... and {len(failures) - FAILURES} more"]
    diagnosis = _unique(line for report in runs.values() for line in report.diagnosis)[:EXPLANATIONS]
    notes = _unique(note for report in runs.values() for note in report.notes)
    if failures:
        yield "\n".join(failures)
    if diagnosis:
        yield "\n  ".join(["Diagnosis:", *diagnosis])
    if notes:
        yield "\n".join(f"note: {note}" for note in notes)


def _unique(lines: Iterator[str]) -> list[str]:
    return list(dict.fromkeys(lines))
