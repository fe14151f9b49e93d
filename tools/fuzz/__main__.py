"""Fuzz the checkpoint reader with mutated files of every container, in processes with limits.

    python -m tools.fuzz --seed S [--minutes X] [--processes P] [--only pt2]

A finding is a file that yields neither tensors nor a `CheckpointError`, or for which another guarantee of
docs/safety.md does not hold. The first file of each finding is kept in the folder `--keep`, and the exit
status is 1.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from testing.hostile.reader_process import COMMAND, ReaderProcess
from tools.fuzz.mutate import mutant

FINDING = "FINDING "
Report = dict[str, list[int]]
"""The indices of the files of each outcome: an error code, a container that was read, or a finding."""


def _label(result: dict[str, Any]) -> str:
    if "finding" in result:
        return FINDING + result["finding"]
    if result["code"] is not None:
        return f"pt2 without a graph: {result['code']}" if result["stage"] == "graph" else result["code"]
    if "program" in result:
        return f"pt2 without a program: {result['program']}" if result["program"] else "pt2 of a program"
    return f"{result['container']} of {'some' if result['nbytes'] else 'no'} bytes"


def fuzz(
    seed: int,
    shares: Sequence[Iterable[int]],
    *,
    seconds: float = float("inf"),
    command: Sequence[str] = COMMAND,
    only: str = "",
) -> Report:
    """Read mutants, each share of their indices in its own process, until a time is over.

    Args:
        seed: seed of the mutations.
        shares: indices of files.
        seconds: no file is read after this time.
        command: starts a process that reads files.
        only: mutate only the valid files whose name starts with this text.
    """
    report, end = defaultdict(list), time.time() + seconds

    def read(share: Iterable[int]) -> None:
        with (
            tempfile.TemporaryDirectory(prefix="fuzz-") as folder,
            ReaderProcess(Path(folder), command) as process,
        ):
            for index in itertools.takewhile(lambda _: time.time() < end, share):
                case = mutant(seed, index, only)
                result = process.ask(case.write(Path(folder) / case.name), case.options)
                report[_label(result)].append(index)

    # Threads, because most of the time is spent in the processes that read the files.
    with ThreadPoolExecutor(len(shares)) as pool:
        list(pool.map(read, shares))
    return report


def keep(seed: int, report: Report, folder: Path, only: str = "") -> list[str]:
    """Write the first file of each finding to its own folder; return the findings."""
    findings = [label for label in report if label.startswith(FINDING)]
    for finding in findings:
        indices = report[finding]
        place = folder / f"{seed}-{indices[0]}"
        place.parent.mkdir(parents=True, exist_ok=True)
        case = mutant(seed, indices[0], only)
        record = {"finding": finding, "seed": case.name, "open": case.write(place).name}
        text = json.dumps(record | {"options": case.options, "indices": indices[:20]}, indent=1)
        (place / "finding.json").write_text(text)
    return findings


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--only", default="", help="mutate only seeds whose name starts with this text")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"))
    options = parser.parse_args()
    shares = [itertools.count(k, options.processes) for k in range(options.processes)]
    report = fuzz(options.seed, shares, seconds=60 * options.minutes, only=options.only)
    for label, indices in sorted(report.items(), key=lambda item: -len(item[1])):
        print(f"{len(indices):9} {label}")
    print(f"{sum(map(len, report.values()))} files")
    return 1 if keep(options.seed, report, options.keep, options.only) else 0


if __name__ == "__main__":
    sys.exit(main())
