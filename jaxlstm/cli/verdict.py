"""The report of ``jaxlstm check``: text of at most one screen, and a page about all runs."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from jaxlstm._shared.table import format_number, table
from jaxlstm.cli.options import option_of

if TYPE_CHECKING:
    from jaxlstm.check import Item, Report

Reports = dict[tuple[str, str], "Report"]
"""Reports by backend, and by dtype or "matrix"."""
NOT_RUN = "not run: JAX finds no such device"
FAILURES = 5
"""Failed items that are shown without ``--verbose``."""
EXPLANATIONS = 5
"""Lines of the diagnosis that are shown without ``--verbose``."""
_SUBJECT = ("operators", "prefix", "batch_first", "dropout", "submodule", "method", "input", "port")
REPEATED = (*_SUBJECT, "backend", "dtype", "matrix", "seed")
"""The options of a check, for the command that repeats it."""


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
    hint = "" if ok or args.verbose else "; --verbose shows every item"
    verdict = f"{title} {'HOLDS' if ok else 'DOES NOT HOLD'} ({counts}){hint}"
    return "\n\n".join([*paragraphs, verdict])


def _items(runs: dict[str, Report]) -> str:
    """Return a table with a row for each item and a column for each run. No item failed."""
    items_by_run = {run: {item.name: item for item in report.items} for run, report in runs.items()}
    names = dict.fromkeys(name for items in items_by_run.values() for name in items)
    rows = [(name, *(_cell(items.get(name)) for items in items_by_run.values())) for name in names]
    return table(("item", *runs), rows)


def _cell(item: Item | None) -> str:
    """Return "3.3e-16 <= 1.4e-14" for an item with a number, or else its status; a ratio has a unit."""
    if item is None:
        return ""
    if item.measured is None:
        return item.status
    unit = " times the error of right implementations" * item.id.startswith("rms-")
    return f"{format_number(item.measured)} <= {format_number(item.limit)}{unit}"


def matrix_table(items: Iterable[Item]) -> str:
    """Return the items of ``verify_matrix`` as a grid, with one column for each length."""
    cells: dict[str, dict[str, str]] = {}
    for item in items:
        text = item.status if item.measured is None else f"{item.status} {item.measured:.2g}"
        cells.setdefault(item.data["row"], {})[item.data["column"]] = text
    columns = list(next(iter(cells.values()), ()))
    rows = [(label, *(row[column] for column in columns)) for label, row in cells.items()]
    return table(("", *columns), rows, right=range(1, len(columns) + 1))


def _grids(runs: dict[str, Report]) -> Iterator[str]:
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


def merge_reports(args: argparse.Namespace, config: Any, reports: Reports, absent: Sequence[str]) -> Report:
    """Return one report of all runs.

    The names of items and diagnoses start with the backend and dtype. ``difference`` comes from the first run
    with one.
    """
    from jaxlstm.check import Item, Report

    runs = [(f"{backend} {dtype}", report) for (backend, dtype), report in reports.items()]
    items = [
        dataclasses.replace(item, name=f"{run}: {item.name}") for run, report in runs for item in report.items
    ]
    items += [Item(backend, None, detail=NOT_RUN) for backend in absent]
    return Report(
        title=f"{args.checkpoint}: {args.port or 'jitted JAX'} against torch",
        items=tuple(items),
        diagnosis=tuple(f"{run}: {line}" for run, report in runs for line in report.diagnosis),
        notes=tuple(dict.fromkeys(note for _, report in runs for note in report.notes)),
        settings={"checkpoint": args.checkpoint, "config": repr(config), "seed": args.seed},
        environment=_environment(reports),
        again=command_line(args),
        difference=next((report.difference for _, report in runs if report.difference), None),
    )


def command_line(args: argparse.Namespace, **changed: Any) -> str:
    """Return the command that repeats a check, without its output options.

    ``changed`` has the options that restrict it to one run.
    """
    words = ["jaxlstm", "check", str(args.checkpoint)]
    for name in REPEATED:
        value = changed.get(name, getattr(args, name))
        if isinstance(value, bool):
            words.append(option_of(name if value else f"no_{name}"))
        elif value is not None:
            values = value if isinstance(value, list) else [value]
            words += [word for item in values for word in (option_of(name), str(item))]
    return shlex.join(words)


def _environment(reports: Reports) -> dict[str, str]:
    """Merge the environments. Values that differ between backends are listed by backend."""
    by_name: dict[str, dict[str, str]] = {}
    for (backend, _), report in reports.items():
        for name, value in report.environment.items():
            by_name.setdefault(name, {})[backend] = value
    return {
        name: next(iter(values.values()))
        if len(set(values.values())) == 1
        else "; ".join(f"on {backend}: {value}" for backend, value in values.items())
        for name, values in by_name.items()
    }
