"""``jaxlstm bench``: how fast the layer is on a device, beside other libraries with the same weights."""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path
from typing import Any

from jaxlstm.bench.peers import PEERS, missing
from jaxlstm.cli.devices import require_device
from jaxlstm._shared.progress import progress_bar

AGAINST = tuple(PEERS)
MODES = ("infer", "train")


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "bench",
        help="time the layer beside other libraries",
        description="Time lstm() beside other libraries' LSTMs on one device, in float32: the same weights "
        "and the same precision of products, checked against a float64 oracle before anything is timed; in "
        "turns in one process, each waited for; medians; on a CPU for each as many threads as this process "
        "has CPUs (`taskset` sets them). Let nothing else run meanwhile. Status 0: all compute the same; "
        "1: one does not, and was not timed.",
    )
    parser.add_argument(
        "--against",
        type=_names,
        default=None,
        metavar="NAMES",
        help="with commas between them; what is not installed is left out. Default: those that run on the "
        f"device, of {','.join(AGAINST)}",
    )
    parser.add_argument("--mode", choices=(*MODES, "both"), default="both", help="default both")
    parser.add_argument(
        "--backend",
        choices=("auto", "scan", "native", "pallas", "cudnn"),
        default="auto",
        help="of lstm(); default auto",
    )
    parser.add_argument(
        "--device", choices=("cpu", "gpu", "tpu"), help="default: the one that JAX takes by itself"
    )
    parser.add_argument(
        "--precision",
        choices=("highest", "float32", "tensorfloat32", "bfloat16"),
        default="highest",
        help="of products, on every side alike: the coarsest that the device may take (default highest, "
        "which is float32); on a CPU all are float32",
    )
    parser.add_argument(
        "--rounds", type=_positive, default=9, help="of which the median is taken (default 9)"
    )
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, only to see that it runs")
    parser.add_argument(
        "--json", metavar="FILE", help="write the results and what they were made on"
    )
    parser.add_argument("--png", metavar="FILE", help="draw them as a bar chart (needs matplotlib)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print a table for each mode: status 0, or 1 if a side computed something else."""
    _require_outputs(args)
    device = require_device("--device", args.device)
    _require_backend(args.backend, device.platform)
    from jaxlstm.bench import machine, measure, report, sizes
    from jaxlstm.bench.setting import Setting, applied

    wanted = args.against or [n for n in AGAINST if device.platform in PEERS[n].devices]
    names = [name for name in wanted if not _left_out(name, device.platform)]
    needed = [distribution for name in names for distribution in PEERS[name].distributions]
    setting = Setting(device.platform, args.precision, machine.threads())
    told = {"backend": args.backend, "rounds": args.rounds}
    with applied(setting, names) as in_force:
        about = {**machine.describe(needed, setting), **told, "in_force": in_force}
    print(_headline(about), flush=True)
    sides = measure.makers(names, args.backend, setting)
    table = sizes.TINY_SIZES if args.tiny else sizes.SIZES
    modes = MODES if args.mode == "both" else (args.mode,)
    total = sum(len(table[mode]) for mode in modes)
    rows: list[dict[str, Any]] = []
    for mode in modes:
        with progress_bar() as progress:
            for row in measure.measure(mode, table[mode], sides, args.rounds, setting):
                rows.append(row)
                progress(len(rows), total, f"{mode} {row['size']}")
                _write_json(args.json, about, rows)
        of_mode = [row for row in rows if row["mode"] == mode]
        told = [report.mode_table(of_mode, names), *report.remarks(of_mode)]
        print(f"\n{mode}: ms, in brackets time / jaxlstm's", *told, sep="\n", flush=True)
    if args.png:
        from jaxlstm.bench.chart import write_chart

        write_chart(Path(args.png), rows, names, _headline(about))
    return 1 if any(row["wrong"] for row in rows) else 0


def _names(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.split(",")))
    if unknown := [name for name in names if name not in AGAINST]:
        raise argparse.ArgumentTypeError(
            f"no such library: {', '.join(map(repr, unknown))}; known are {','.join(AGAINST)}"
        )
    return names


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a whole number above zero, got {text!r}")
    return int(text)


def _require_outputs(args: argparse.Namespace) -> None:
    """What would otherwise fail after everything was measured."""
    for option in ("json", "png"):
        path = getattr(args, option)
        if path and not Path(path).parent.is_dir():
            raise ValueError(f"--{option} {path}: its folder does not exist")
        if path and Path(path).is_dir():
            raise ValueError(f"--{option} {path}: is a folder; name a file in it")
    if args.png and importlib.util.find_spec("matplotlib") is None:
        raise ModuleNotFoundError("--png needs matplotlib: pip install 'jaxlstm[bench]'")


def _require_backend(backend: str, platform: str) -> None:
    from jaxlstm.kernels import require_here

    try:
        require_here(backend, "float32", platform)
    except RuntimeError as error:
        raise ValueError(str(error)) from error


def _left_out(name: str, device: str) -> bool:
    """Whether a library cannot take part, which is then told."""
    why = ""
    if absent := missing(name):
        why = f"not installed: {', '.join(absent)}"
    elif device not in PEERS[name].devices:
        why = f"does not run on a {device.upper()} here"
    if why:
        print(f"{name}: left out, {why}", flush=True)
    return bool(why)


def _headline(about: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    kernels = about["kernels"]
    native = kernels["instruction_set"] if kernels["native"] else f"none ({kernels['reason']})"
    return (
        f"{versions}\n{about['device_name']}, {about['threads']} threads; precision {about['precision']}, "
        f"which is {about['arithmetic']} there; backend {about['backend']}, native kernel: {native}; "
        f"median of {about['rounds']}"
    )


def _write_json(path: str | None, about: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """After every row, so that what was measured is kept whatever happens to the rest."""
    if path:
        text = json.dumps({**about, "results": rows}, indent=2)
        Path(path).write_text(text + "\n", encoding="utf-8")
