"""Fuzz the checkpoint reader with mutated files of every container, in processes with limits.

    python -m tools.fuzz --seed S --start N --count M [--minutes X] [--processes P] [--only pt2]

File N of seed S is the same on every machine. A finding is a file that yields neither tensors nor a
`CheckpointError`, or for which another guarantee of docs/safety.md does not hold. Findings are kept in the
folder `--keep`, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from testing.hostile.reader_process import COMMAND, ReaderProcess
from tools.fuzz.mutate import mutant


@dataclass
class FuzzReport:
    """Counts of outcomes, and the findings.

    Attributes:
        outcomes: number of files by error code, or by container if they were read.
        findings: description of each finding and the indices of its files.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    findings: dict[str, list[int]] = field(default_factory=dict)

    @property
    def files(self) -> int:
        """Number of files read."""
        return self.outcomes.total()

    def add(self, outcomes: Counter[str], findings: dict[str, list[int]]) -> None:
        """Add the outcomes and findings of other files."""
        self.outcomes += outcomes
        for finding, indices in findings.items():
            self.findings.setdefault(finding, []).extend(indices)


def _label(result: dict[str, Any]) -> str:
    if "finding" in result:
        return "finding"
    if result["code"] is not None:
        return f"pt2 without a graph: {result['code']}" if result["stage"] == "graph" else result["code"]
    if "program" in result:
        return f"pt2 without a program: {result['program']}" if result["program"] else "pt2 of a program"
    return f"{result['container']} of {'some' if result['nbytes'] else 'no'} bytes"


def fuzz(
    seed: int,
    start: int,
    count: int,
    *,
    seconds: float = float("inf"),
    processes: int = 1,
    command: Sequence[str] = COMMAND,
    only: str = "",
) -> FuzzReport:
    """Read files `start` to `start + count`, or fewer if the time runs out.

    Args:
        seed: seed of the mutations.
        start: index of the first file.
        count: number of files.
        seconds: no file is read after this time.
        processes: number of concurrent processes that read files; each takes every n-th file.
        command: starts the process that reads files.
        only: mutate only the valid files whose name starts with this text.
    """
    shares = [range(start + k, start + count, processes) for k in range(processes)]
    end = time.time() + seconds
    report = FuzzReport()
    # Threads, because most of the time is spent in the processes that read the files.
    with ThreadPoolExecutor(processes) as pool:
        for part in pool.map(lambda share: _fuzz_share(seed, share, end, command, only), shares):
            report.add(part.outcomes, part.findings)
    return report


def _fuzz_share(
    seed: int, indices: Iterable[int], end: float, command: Sequence[str], only: str
) -> FuzzReport:
    """Read files until a point in time."""
    report = FuzzReport()
    with (
        tempfile.TemporaryDirectory(prefix="fuzz-") as folder,
        ReaderProcess(Path(folder), command) as process,
    ):
        for index in indices:
            if time.time() > end:
                break
            case = mutant(seed, index, only)
            result = process.ask(case.write(Path(folder) / case.name), case.options)
            findings = {result["finding"]: [index]} if "finding" in result else {}
            report.add(Counter([_label(result)]), findings)
    return report


def keep(seed: int, report: FuzzReport, folder: Path, only: str = "") -> None:
    """Write the first file of each finding to its own folder."""
    for finding, indices in report.findings.items():
        place = folder / f"{seed}-{indices[0]}"
        place.parent.mkdir(parents=True, exist_ok=True)
        case = mutant(seed, indices[0], only)
        record = {"finding": finding, "seed": case.name, "open": case.write(place).name}
        text = json.dumps(record | {"options": case.options, "indices": indices[:20]}, indent=1)
        (place / "finding.json").write_text(text)


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0, help="index of the first file")
    parser.add_argument("--count", type=int, default=1 << 40, help="how many files")
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--only", default="", help="mutate only seeds whose name starts with this text")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"))
    options = parser.parse_args()
    began = time.monotonic()
    report = fuzz(
        options.seed,
        options.start,
        options.count,
        seconds=60 * options.minutes,
        processes=options.processes,
        only=options.only,
    )
    keep(options.seed, report, options.keep, options.only)
    for outcome, number in sorted(report.outcomes.items(), key=lambda item: -item[1]):
        print(f"{number:9} {outcome}")
    for finding, indices in report.findings.items():
        print(f"FINDING, {len(indices)} files, the first --start {indices[0]}: {finding}")
    rate = report.files / (time.monotonic() - began)
    print(f"{report.files} files, {rate:.0f} a second, {len(report.findings)} findings")
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(main())
