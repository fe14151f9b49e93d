"""Time and peak memory of whole processes, which take turns.

A child starts as a copy of its parent, and the peak of its resident memory starts there. So a small process,
which imports neither JAX nor torch nor NumPy, starts the one to measure.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from benchmarks.machine import ROOT
from benchmarks.timing import quartiles, spreads

MIB = 1 << 20


class Cost(NamedTuple):
    """Elapsed time and peak memory of one process."""

    seconds: float
    peak_bytes: int


def run(arguments: Sequence[str]) -> Cost:
    """Run Python in the root of the repository, from start to exit. Raise RuntimeError if it fails."""
    script = "import sys; from benchmarks.processes import measure; print(*measure(sys.argv[1:]))"
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{arguments} failed")
    seconds, peak_bytes = done.stdout.split()
    return Cost(float(seconds), int(peak_bytes))


def measure(arguments: Sequence[str]) -> Cost:
    """Run Python as a child of this process. Raise RuntimeError if it fails."""
    environment = _environment()
    start = time.perf_counter()
    child = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL, env=environment)
    _, status, used = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"exit status {child.returncode}")
    return Cost(seconds, used.ru_maxrss * 1024)


def _environment() -> dict[str, str]:
    """Let the uncounted first run write bytecode, which installed packages have."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def printed_row(case: str, sides: Mapping[str, Sequence[str]], rounds: int) -> dict:
    """Return a row with the seconds that each process prints. The first run of each side is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, arguments in sides.items():
            command, environment = [sys.executable, *arguments], _environment()
            printed = subprocess.check_output(command, cwd=ROOT, text=True, env=environment)
            if number:
                seconds[name].append(float(printed))
    return {"case": case, "unit": "s", "values": spreads(seconds)}


def rows(case: str, sides: Mapping[str, Sequence[str]], rounds: int) -> list[dict]:
    """Return a row with seconds and one with MiB. The first run of each side is not counted."""
    costs: dict[str, list[Cost]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, arguments in sides.items():
            cost = run(arguments)
            if number:
                costs[name].append(cost)
    seconds = {name: quartiles([cost.seconds for cost in column]) for name, column in costs.items()}
    peaks = {name: quartiles([cost.peak_bytes / MIB for cost in column]) for name, column in costs.items()}
    return [
        {"case": case, "unit": "s", "values": seconds},
        {"case": f"{case}: peak memory", "unit": "MiB", "values": peaks},
    ]
