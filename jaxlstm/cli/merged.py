"""Several runs of ``jaxlstm check`` as one report, for the page and the XML."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxlstm.check import Report

Reports = Mapping[tuple[str, str], "Report"]
"""By backend, and dtype or "matrix"."""


def merged(args: argparse.Namespace, config: Any, reports: Reports, absent: list[str]) -> Report:
    """One report of all runs, whose items are named with backend and dtype; of absent backends, that they
    are.

    Where a difference is told, it is that of the first run that has one.
    """
    from jaxlstm.check import Item, Report

    runs = [(f"{backend} {dtype}", report) for (backend, dtype), report in reports.items()]
    items = [
        dataclasses.replace(item, name=f"{run}: {item.name}")
        for run, report in runs
        for item in report.items
    ]
    items += [
        Item(backend, None, detail="not run, JAX sees no such device here") for backend in absent
    ]
    return Report(
        title=f"{args.checkpoint}: {args.port or 'jitted JAX'} against torch",
        items=tuple(items),
        diagnosis=tuple(f"{run}: {line}" for run, report in runs for line in report.diagnosis),
        notes=tuple(dict.fromkeys(note for _, report in runs for note in report.notes)),
        settings={"checkpoint": args.checkpoint, "config": repr(config), "seed": args.seed},
        environment=_environment(reports),
        pictures=tuple(
            dataclasses.replace(grid, title=f"{run}, {grid.title}")
            for run, report in runs
            for grid in report.pictures
        ),
        again=command(args),
        difference=next((report.difference for _, report in runs if report.difference), None),
    )


def command(args: argparse.Namespace, *, backend: str | None = None, dtype: str = "") -> str:
    """The command that was given, but for what it writes; of one backend and dtype, if these are told."""
    words = ["jaxlstm", "check", str(args.checkpoint)]
    if args.prefix is not None:
        words += ["--prefix", args.prefix]
    if args.port is not None:
        words += ["--port", args.port]
    if backend or args.backend:
        words += ["--backend", backend or args.backend]
    for name in [dtype] if dtype else args.dtype or ():
        words += ["--dtype", name]
    words += ["--matrix"] * args.matrix + ["--seed", str(args.seed)]
    return shlex.join(words)


def _environment(reports: Reports) -> dict[str, str]:
    """What was in force; what differs between backends is told of each."""
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
