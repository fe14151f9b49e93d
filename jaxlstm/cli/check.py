"""``jaxlstm check CKPT``: does jitted JAX match torch on this checkpoint, forwards and backwards.

The JAX is our own layer, or with ``--port`` the user's.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxlstm.cli.devices import require_device
from jaxlstm.cli.load_port import load_port
from jaxlstm.cli.merged import command, merged
from jaxlstm.cli.selection import add_selection, load_selected
from jaxlstm._shared.progress import Progress, progress_bar

if TYPE_CHECKING:
    from jaxlstm.check import Report

BACKENDS = ("cpu", "gpu", "tpu")
Port = Callable[..., Any] | None
Reports = dict[tuple[str, str], "Report"]  # by backend, and dtype or "matrix"


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "check",
        help="compare jitted JAX with torch on a checkpoint",
        description="Compare jitted JAX with torch and with a float64 oracle: outputs, h_n, c_n and every "
        "gradient, on inputs that can show faults. Status 0: they match; 1: they do not.",
    )
    parser.add_argument("checkpoint", metavar="CKPT", help="the file to read")
    add_selection(parser)
    parser.add_argument(
        "--port",
        metavar="FILE.py:NAME",
        help="check this function of yours, port(inputs, initial_state, seq_lengths[, *, params]) -> "
        "(outputs, (h_n, c_n)), time-major, and not the layer of jaxlstm; the file is run",
    )
    parser.add_argument(
        "--backend",
        choices=(*BACKENDS, "all"),
        help="where to run JAX; default: JAX's own default; all: each that is here",
    )
    parser.add_argument(
        "--dtype",
        action="append",
        choices=("float16", "bfloat16", "float32", "float64"),
        help="may be given again; default: float32 and float64, with --matrix all four",
    )
    parser.add_argument(
        "--matrix",
        action="store_true",
        help="results alone, over dtype x batch x length x jit or not, as one table",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the inputs (default 0)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--report", metavar="FILE.html", help="also write the report as one page")
    parser.add_argument(
        "--junit", metavar="FILE.xml", help="also write it as JUnit XML, for CI servers"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the verdict of each backend and dtype, or table: status 0 if all match, 1 if one does not."""
    for option in ("report", "junit"):
        path = getattr(args, option)
        if path and not Path(path).parent.is_dir():
            raise ValueError(f"--{option} {path}: its folder does not exist")
        if path and Path(path).is_dir():
            raise ValueError(f"--{option} {path}: is a folder, wanted a file")
    params, config = load_selected(args)
    port = load_port(args.port) if args.port else None
    devices, absent = _devices(args.backend)
    reports: Reports = {}
    with progress_bar() as progress:
        for backend, device in devices.items():
            check = _matrix if args.matrix else _verdicts
            for dtype, report in check(
                device, port, params, config, args, _labelled(progress, backend)
            ):
                again = command(args, backend=backend, dtype="" if args.matrix else dtype)
                reports[backend, dtype] = dataclasses.replace(report, again=again)
    whole = merged(args, config, reports, absent)
    if args.report:
        Path(args.report).write_text(whole.to_html(), encoding="utf-8")
    if args.junit:
        Path(args.junit).write_text(whole.to_junit(), encoding="utf-8")
    if args.json:
        print(json.dumps(_as_json(args.checkpoint, reports, absent), indent=2))
    else:
        _print(args, reports, absent)
    return 0 if all(report.ok for report in reports.values()) else 1


def _print(args: argparse.Namespace, reports: Reports, absent: list[str]) -> None:
    from jaxlstm.check.terminal import show, show_text

    for (backend, _), report in reports.items():
        print(f"{args.checkpoint} on {backend}")
        if args.matrix:
            show_text(_table(report))
        else:
            show(report)
        print()
    for backend in absent:
        print(f"{backend}: not run, JAX sees no such device here")


def _devices(backend: str | None) -> tuple[dict[str, Any], list[str]]:
    """The JAX device of each backend asked for, and of "all" those that are not here."""
    if backend != "all":
        device = require_device("--backend", backend)
        return {device.platform: device}, []
    present, absent = {}, []
    for name in BACKENDS:
        try:
            present[name] = require_device("--backend", name)
        except ValueError:
            absent.append(name)
    return present, absent


def _verdicts(
    device: Any,
    port: Port,
    params: Any,
    config: Any,
    args: argparse.Namespace,
    progress: Progress,
) -> Iterator[tuple[str, Report]]:
    """The whole verdict, dtype by dtype."""
    import jax

    from jaxlstm.check import verify

    for dtype in args.dtype or ("float32", "float64"):
        with jax.default_device(device):
            yield (
                dtype,
                verify(
                    port,
                    params,
                    config,
                    dtype=dtype,
                    seed=args.seed,
                    progress=_labelled(progress, dtype),
                ),
            )


def _matrix(
    device: Any,
    port: Port,
    params: Any,
    config: Any,
    args: argparse.Namespace,
    progress: Progress,
) -> Iterator[tuple[str, Report]]:
    """One report on every combination; it has no dtype of its own."""
    import jax

    from jaxlstm.check import verify_matrix
    from jaxlstm.check.matrix import DTYPES

    dtypes = args.dtype or DTYPES
    with jax.default_device(device):
        yield (
            "matrix",
            verify_matrix(port, params, config, dtypes=dtypes, seed=args.seed, progress=progress),
        )


def _table(report: Report) -> str:
    """The verdict, the grid, what its numbers are, and what failed."""
    from jaxlstm.check.matrix import table

    lines = [report.verdict, *table(report)]
    lines.append(
        "float64: largest difference from torch or the oracle, absolute; else: RMS error to float64 in "
        "units of right implementations"
    )
    lines += [f"FAILED {item.name}: {item.detail}" for item in report.failures]
    return "\n".join(lines)


def _labelled(progress: Progress, where: str) -> Progress:
    return lambda done, total, what: progress(done, total, f"{where}: {what}")


def _as_json(checkpoint: str, reports: Reports, absent: list[str]) -> Any:
    return {
        "checkpoint": str(checkpoint),
        "ok": all(report.ok for report in reports.values()),
        "not_run": absent,
        "reports": [
            {"backend": backend, "dtype": dtype, **json.loads(report.to_json())}
            for (backend, dtype), report in reports.items()
        ],
    }
