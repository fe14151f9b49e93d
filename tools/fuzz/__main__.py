"""Fuzz the checkpoint reader with mutated files of every container, in processes with limits.

    python -m tools.fuzz --seed S --start N --count M [--minutes X] [--processes P] [--only pt2]

File N of seed S is the same on every machine. A finding is a file that yields neither tensors nor a
`CheckpointError`, or that exceeds the limits on time or memory. Findings are kept in the folder `--keep`,
and the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from testing.processes import python_environment
from tools.fuzz.mutate import mutant

CHILD = (sys.executable, "-m", "tools.fuzz.child")
# Files per process: enough to amortize its start.
BLOCK = 10_000
# The number of deaths after which a block is abandoned.
MAX_DEATHS = 100


@dataclass
class Report:
    """Counts of outcomes, and the findings.

    Attributes:
        files: number of files read.
        outcomes: number of files by error code, or by container if they were read.
        findings: description of each finding and the indices of its files.
    """

    files: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    findings: dict[str, list[int]] = field(default_factory=dict)

    def add(self, other: Report) -> None:
        """Add the counts and findings of another report."""
        self.files += other.files
        self.outcomes += other.outcomes
        for finding, indices in other.findings.items():
            self.findings.setdefault(finding, []).extend(indices)


def fuzz(
    seed: int,
    start: int,
    count: int,
    *,
    seconds: float = float("inf"),
    processes: int = 1,
    child: Sequence[str] = CHILD,
    only: str = "",
) -> Report:
    """Read files `start` to `start + count`, or fewer if the time runs out.

    Args:
        seed: seed of the mutations.
        start: index of the first file.
        count: number of files.
        seconds: no block of files starts after this time.
        processes: number of concurrent processes.
        child: command of the process that reads files.
        only: mutate only the valid files whose name starts with this text.
    """
    end, step = start + count, min(BLOCK, -(-count // processes))
    began = time.monotonic()
    blocks, whole, lock = iter(range(start, end, step)), Report(), threading.Lock()

    def work(_: int) -> None:
        while time.monotonic() - began < seconds:
            with lock:
                first = next(blocks, end)
            if first == end:
                break
            report = _block(seed, first, min(step, end - first), child, only)
            with lock:
                whole.add(report)

    with ThreadPoolExecutor(processes) as workers:
        list(workers.map(work, range(processes)))
    return whole


def _block(seed: int, start: int, count: int, child: Sequence[str], only: str) -> Report:
    """Read a block of files in one process; start another after a death, from the next file on."""
    report, end = Report(files=count), start + count
    # In memory, so that the disk does not dominate the measured time.
    shared = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=shared) as folder:
        for _ in range(MAX_DEATHS):
            died = _process((seed, start, end - start, folder, only), child, report)
            if died is None:
                return report
            start = died + 1
    raise RuntimeError(f"{MAX_DEATHS} processes died between files {end - count} and {start}")


def _process(arguments: tuple[int, int, int, str, str], child: Sequence[str], report: Report) -> int | None:
    """Run one process; return the index of the file during which it died, or None."""
    # More threads would reserve address space.
    environment = python_environment(OPENBLAS_NUM_THREADS="1")
    folder = Path(arguments[3])
    command = [*child, *map(str, arguments)]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    for line in map(json.loads, done.stdout.splitlines()):
        if "counts" in line:
            report.add(Report(outcomes=Counter(line["counts"])))
        else:
            report.add(Report(findings={line["finding"]: [line["index"]]}))
    if done.returncode == 0:
        return None
    progress = folder / "progress"
    if not progress.exists():
        raise RuntimeError(f"the process did not start: {done.stderr[-2_000:]}")
    index = int(progress.read_bytes())
    report.add(Report(findings={f"the process ends with status {done.returncode}": [index]}))
    return index


def keep(seed: int, report: Report, folder: Path, only: str = "") -> None:
    """Write the first file of each finding to its own folder."""
    for finding, indices in report.findings.items():
        place = folder / f"{seed}-{indices[0]}"
        place.mkdir(parents=True, exist_ok=True)
        case = mutant(seed, indices[0], only)
        case.write(place)
        record = {"finding": finding, "seed": case.seed, "open": case.opened, "crc": case.check_crc}
        (place / "finding.json").write_text(json.dumps(record | {"indices": indices[:20]}, indent=1))


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
