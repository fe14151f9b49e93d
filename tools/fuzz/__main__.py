"""Fuzzes the checkpoint reader: mutated files of every container, in processes with limits.

    python -m tools.fuzz --seed S --start N --count M [--minutes X] [--processes P]

File N of seed S is the same on every machine. A file that ends neither in tensors nor in a
`CheckpointError`, or needs more time or memory than was promised, is a finding: it is kept in the
folder `--keep`, and the exit status is 1.
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

from tools.fuzz.mutate import mutant

ROOT = Path(__file__).parents[2]
CHILD = (sys.executable, "-m", "tools.fuzz.child")
BLOCK = 10_000  # files for one process: its start is cheap beside them, and it does not grow old
MAX_DEATHS = 100  # of the processes of one block


@dataclass
class Report:
    """What came of the files.

    Attributes:
        files: how many were read.
        outcomes: how many ended in each error code, or were read as each container.
        findings: what must not happen, and the indices of the files with which it did.
    """

    files: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    findings: dict[str, list[int]] = field(default_factory=dict)

    def add(self, other: Report) -> None:
        """Count another report in."""
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
) -> Report:
    """Read files `start` to `start + count`, fewer if the seconds are over before.

    Args:
        seed: of the mutations.
        start: index of the first file.
        count: how many.
        seconds: no block of files is begun after these.
        processes: how many read at once.
        child: the command that reads.
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
            report = _block(seed, first, min(step, end - first), child)
            with lock:
                whole.add(report)

    with ThreadPoolExecutor(processes) as workers:
        list(workers.map(work, range(processes)))
    return whole


def _block(seed: int, start: int, count: int, child: Sequence[str]) -> Report:
    """Files for one process; for another from the next file on, where one dies."""
    report, end = Report(files=count), start + count
    shared = "/dev/shm" if os.path.isdir("/dev/shm") else None  # a disk would be what is measured
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=shared) as folder:
        for _ in range(MAX_DEATHS):
            died = _process(seed, start, end - start, Path(folder), child, report)
            if died is None:
                return report
            start = died + 1
    raise RuntimeError(f"{MAX_DEATHS} processes died between files {end - count} and {start}")


def _process(
    seed: int, start: int, count: int, folder: Path, child: Sequence[str], report: Report
) -> int | None:
    """Run one process; gives the index of the file that it died of."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "converters")]),
        "OPENBLAS_NUM_THREADS": "1",  # threads reserve address space
    }
    command = [*child, *map(str, (seed, start, count, folder))]
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


def keep(seed: int, report: Report, folder: Path) -> None:
    """Write the first file of each finding into a folder of its own."""
    for finding, indices in report.findings.items():
        place = folder / f"{seed}-{indices[0]}"
        place.mkdir(parents=True, exist_ok=True)
        case = mutant(seed, indices[0])
        case.write(place)
        told = {"finding": finding, "seed": case.seed, "open": case.opened, "crc": case.check_crc}
        (place / "finding.json").write_text(json.dumps(told | {"indices": indices[:20]}, indent=1))


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0, help="index of the first file")
    parser.add_argument("--count", type=int, default=1 << 40, help="how many files")
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"))
    options = parser.parse_args()
    began = time.monotonic()
    report = fuzz(
        options.seed,
        options.start,
        options.count,
        seconds=60 * options.minutes,
        processes=options.processes,
    )
    keep(options.seed, report, options.keep)
    for told, number in sorted(report.outcomes.items(), key=lambda item: -item[1]):
        print(f"{number:9} {told}")
    for finding, indices in report.findings.items():
        print(f"FINDING, {len(indices)} files, the first --start {indices[0]}: {finding}")
    rate = report.files / (time.monotonic() - began)
    print(f"{report.files} files, {rate:.0f} a second, {len(report.findings)} findings")
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(main())
