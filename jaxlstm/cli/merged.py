"""The reports of several runs of ``jaxlstm check`` as one report, for the HTML page."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxlstm.check import Report

Reports = dict[tuple[str, str], "Report"]
"""Reports by backend, and by dtype or "matrix"."""


def merge_reports(
    args: argparse.Namespace, config: Any, reports: Reports, not_run: Mapping[str, str]
) -> Report:
    """Return one report of all runs.

    The names of items, diagnoses and heat maps start with the backend and dtype. ``not_run`` maps each absent
    backend to the reason. ``difference`` comes from the first run with one.
    """
    from jaxlstm.check import Item, Report

    runs = [(f"{backend} {dtype}", report) for (backend, dtype), report in reports.items()]
    items = [
        dataclasses.replace(item, name=f"{run}: {item.name}") for run, report in runs for item in report.items
    ]
    items += [Item(backend, None, detail=reason) for backend, reason in not_run.items()]
    return Report(
        title=f"{args.checkpoint}: {args.port or 'jitted JAX'} against torch",
        items=tuple(items),
        diagnosis=tuple(f"{run}: {line}" for run, report in runs for line in report.diagnosis),
        notes=tuple(dict.fromkeys(note for _, report in runs for note in report.notes)),
        settings={"checkpoint": args.checkpoint, "config": repr(config), "seed": args.seed},
        environment=_environment(reports),
        heatmaps=tuple(
            dataclasses.replace(heatmap, title=f"{run}, {heatmap.title}")
            for run, report in runs
            for heatmap in report.heatmaps
        ),
        again=command_line(args),
        difference=next((report.difference for _, report in runs if report.difference), None),
    )


def command_line(args: argparse.Namespace, *, backend: str | None = None, dtype: str = "") -> str:
    """Return the command that repeats a check, without its output options.

    ``backend`` and ``dtype`` restrict it to one run.
    """
    words = ["jaxlstm", "check", str(args.checkpoint)]
    if args.prefix is not None:
        words += ["--prefix", args.prefix]
    if args.batch_first is not None:
        words.append("--batch-first" if args.batch_first else "--no-batch-first")
    if args.dropout is not None:
        words += ["--dropout", str(args.dropout)]
    if args.port is not None:
        words += ["--port", args.port]
    if backend or args.backend:
        words += ["--backend", backend or args.backend]
    for name in [dtype] if dtype else args.dtype or ():
        words += ["--dtype", name]
    words += ["--matrix"] * args.matrix + ["--seed", str(args.seed)]
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
