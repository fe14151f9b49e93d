"""Time the layer beside other libraries' LSTMs: ``python -m benchmarks``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks import layer, machine, problems, report
from benchmarks.peers import PEERS, missing
from benchmarks.settings import Settings, applied
from jaxlstm._shared.progress import progress_bar

MODES = ("infer", "train")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    result = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Time lstm() beside other libraries' LSTMs on one device, in float32. All get the same "
        "weights, precision and number of threads (one per CPU of this process; `taskset` limits them), and "
        "are compared with a float64 oracle before they are timed. They take turns in one process; times are "
        "medians. Leave the machine idle meanwhile. Exit status 1 if a library disagrees with the oracle.",
    )
    add = result.add_argument
    add(
        "--against",
        type=_names,
        metavar="NAMES",
        default=tuple(PEERS),
        help=f"comma-separated, of {','.join(PEERS)}; default: all that are installed and run on the device",
    )
    add("--mode", choices=(*MODES, "both"), default="both")
    add("--backend", choices=("auto", "scan", "native", "pallas", "cudnn"), default="auto")
    add("--device", choices=("cpu", "gpu", "tpu"), help="default: JAX's default device")
    add(
        "--precision",
        choices=("highest", "float32", "tensorfloat32", "bfloat16"),
        default="highest",
        help="the coarsest arithmetic allowed for matrix products (default: highest, which is float32)",
    )
    add("--rounds", type=_positive, default=9, help="timed bursts of each library (default: 9)")
    add("--tiny", action="store_true", help="tiny sizes, to test that the benchmark runs")
    add("--json", type=_output, metavar="FILE", help="write results, versions and settings")
    add("--png", type=_output, metavar="FILE", help="draw a bar chart (needs matplotlib)")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table for each mode. Return 1 if a library disagrees with the oracle, else 0."""
    args = parser().parse_args(argv)
    try:
        device = jax.devices(args.device)[0].platform
    except RuntimeError as error:
        parser().error(f"--device {args.device}: {error}")
    names = [name for name in args.against if _takes_part(name, device)]
    settings = Settings(device, args.precision, machine.threads())
    distributions = [d for name in names for d in PEERS[name].distributions]
    with applied(settings, names) as in_force:
        about = machine.describe(distributions, settings)
    about |= {"backend": args.backend, "rounds": args.rounds, "in_force": in_force}
    print(_headline(about), flush=True)
    rows = _measure(args, names, settings, about)
    if args.png:
        report.write_chart(args.png, rows, names, _headline(about))
    return int(any(row["wrong"] for row in rows))


def _measure(
    args: argparse.Namespace, names: list[str], settings: Settings, about: dict[str, Any]
) -> list[report.Row]:
    """Measure and print each mode. The JSON file is rewritten after each row, so an abort loses one row."""
    sizes = problems.TINY_SIZES if args.tiny else problems.SIZES
    makers = layer.makers(names, args.backend, settings)
    rows: list[report.Row] = []
    for mode in MODES if args.mode == "both" else (args.mode,):
        with progress_bar() as progress:
            for number, size in enumerate(sizes[mode], 1):
                rows.append(layer.measure(mode, size, makers, args.rounds, settings))
                progress(number, len(sizes[mode]), f"{mode} {size.label}")
                if args.json:
                    report.write_json(args.json, {**about, "results": rows})
        of_mode = [row for row in rows if row["mode"] == mode]
        print(f"\n{mode}: ms (time / time of {layer.OWN})")
        print(report.mode_table(of_mode, names), *report.remarks(of_mode), sep="\n", flush=True)
    return rows


def _names(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.split(",")))
    if unknown := [name for name in names if name not in PEERS]:
        raise argparse.ArgumentTypeError(
            f"unknown library: {', '.join(map(repr, unknown))}; choose from {','.join(PEERS)}"
        )
    return names


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a positive integer, got {text!r}")
    return int(text)


def _output(text: str) -> Path:
    """Check an output path before anything is measured."""
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: its directory does not exist")
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a directory; name a file in it")
    return path


def _takes_part(name: str, device: str) -> bool:
    """Return True if a library is installed and runs on the device; otherwise print the reason."""
    reason = ""
    if absent := missing(name):
        reason = f"not installed: {', '.join(absent)}"
    elif device not in PEERS[name].devices:
        reason = f"does not run on a {device.upper()}"
    if reason:
        print(f"{name} is left out: {reason}", flush=True)
    return not reason


def _headline(about: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    kernels = about["kernels"]
    native = kernels["instruction_set"] if kernels["native"] else f"none ({kernels['reason']})"
    return (
        f"{versions}\n{about['device_name']}, {about['threads']} threads; precision {about['precision']} "
        f"({about['arithmetic']} on this device); backend {about['backend']}, native kernel: {native}; "
        f"medians of {about['rounds']} rounds"
    )


if __name__ == "__main__":
    raise SystemExit(main())
