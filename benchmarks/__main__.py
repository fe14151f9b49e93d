"""The command line: run parts, or write the tables of the documentation."""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import record, report
from benchmarks.parts import ALL, DTYPES, HALF, PARTS, Settings, key
from benchmarks.peers import PEERS, missing
from jaxlstm.kernels.cpu.stack import available_threads

DESCRIPTION = (
    "Time jaxlstm beside other libraries on the CPU. All get the same weights, dtype and number of "
    "threads (one per CPU of this process; `taskset` limits them), and their results are compared before "
    "they are timed. They take turns in one process; times are medians. Leave the machine idle meanwhile. "
    "Exit status 1 if a part fails or a result is wrong."
)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    result = argparse.ArgumentParser(prog="python -m benchmarks", description=DESCRIPTION)
    add = result.add_argument
    names = (*PARTS, "all", "tables")
    add("names", nargs="+", choices=names, metavar="NAME", help=f"of {', '.join(names)}")
    add("--json", type=Path, metavar="FILE", help="write results, machine, commit and versions")
    add("--rounds", type=int, default=9, help="timed bursts of each library (default: 9)")
    add("--tiny", action="store_true", help="tiny sizes, to test that the benchmark runs")
    add("--against", nargs="+", choices=PEERS, metavar="LIBRARY", help=f"of {', '.join(PEERS)}")
    add("--dtype", choices=DTYPES, default="float32", help="of the parts layer-infer and layer-train")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts; return the exit status."""
    argv = sys.argv[1:] if argv is None else list(argv)
    args = parser().parse_args(argv)
    if args.names == ["tables"]:
        report.write()
        return 0
    if "tables" in args.names:
        parser().error("tables takes no other NAME")
    if "all" in args.names and args.json:
        args.json.unlink(missing_ok=True)
    if args.json:
        try:
            record.check(args.json)
        except ValueError as error:
            parser().error(str(error))
    runs = ALL if "all" in args.names else [(name, args.dtype) for name in args.names]
    if len(runs) > 1:
        return _run_each(runs, [word for word in argv if word not in args.names])
    name = args.names[0]
    if args.dtype != "float32" and not name.startswith("layer"):
        parser().error(f"--dtype {args.dtype}: the part {name} has float32 only")
    return run(name, args)


def run(name: str, args: argparse.Namespace) -> int:
    """Run a part in this process. The file is rewritten after each row, so an abort loses one row."""
    load_average, start = record.load_average(), time.perf_counter()
    part, label = PARTS[name], key(name, args.dtype)
    against = args.against or (part.against if args.dtype == "float32" else HALF)
    left_out = {peer: f"not installed: {', '.join(absent)}" for peer in against if (absent := missing(peer))}
    settings = Settings(
        threads=available_threads(),
        dtype=args.dtype,
        rounds=args.rounds,
        tiny=args.tiny,
        against=tuple(peer for peer in against if peer not in left_out),
    )
    results = {"settings": settings._asdict(), "left_out": left_out, "rows": []}
    for row in part.run()(settings):
        results["rows"].append({field: value for field, value in row.items() if value})
        results["seconds"] = round(time.perf_counter() - start)
        print(f"{label}: {row['case']}", file=sys.stderr, flush=True)
        if args.json:
            record.save(args.json, label, results, load_average)
    rows = results["rows"]
    absent = (f"left out: {peer}: {reason}" for peer, reason in left_out.items())
    texts = (report.table(part, rows), report.losses(rows), *absent, *report.gaps(rows))
    print(f"\n{label}", *filter(None, texts), sep="\n", flush=True)
    return int(any("wrong" in row for row in rows))


def _run_each(runs: Sequence[tuple[str, str]], options: list[str]) -> int:
    """Run each part in a separate process; a part that fails does not stop the others."""
    failed = []
    for name, dtype in runs:
        command = [sys.executable, "-m", "benchmarks", name, *options, "--dtype", dtype]
        if subprocess.run(command, cwd=record.ROOT, check=False).returncode:
            failed.append(key(name, dtype))
    if failed:
        print(f"\nfailed: {', '.join(failed)}", flush=True)
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main())
