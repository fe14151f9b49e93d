"""`python -m tests.mutation`: a sample of each file's mutants, and which of them the tests kill."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.mutation.forked import load_libraries, outcome, start
from tests.mutation.mutants import Mutant, sample
from tests.mutation.record import CACHE, FOLDER, ROOT


@dataclass(frozen=True)
class Suite:
    """Files to mutate and the tests that are to notice."""

    files: tuple[str, ...]  # globs
    tests: tuple[str, ...]


_CONVERTERS = ("find", "fold", "from_torch", "to_torch", "load")
_CORE = (
    *("config", "params", "validate", "precision", "activations"),
    *("cell", "scan", "lengths", "packed", "stack"),
)
_CORE_TESTS = (
    *("config", "core", "errors", "packed", "dropout", "imports", "cases"),
    *("precision", "transformations"),
)
SUITES = {
    "converters": Suite(
        tuple(f"converters/jaxlstm_converters/{name}.py" for name in _CONVERTERS),
        ("tests/converters", "tests/checkpoint"),
    ),
    "check": Suite(("jaxlstm/check/**/*.py",), ("tests/check",)),
    "core": Suite(
        tuple(f"jaxlstm/{name}.py" for name in _CORE),
        (
            *(f"tests/test_{name}.py" for name in _CORE_TESTS),
            *(f"tests/kernels/test_{name}.py" for name in ("choice", "cudnn")),
            "tests/foreign/test_lstm_ref.py",
        ),
    ),
}


LOG = FOLDER / "child.log"  # of the child that started last


class Map:
    """Which tests to run for a mutant, from what `record` measured."""

    def __init__(self, suite: str) -> None:
        kept = json.loads((FOLDER / f"{suite}.json").read_text())
        self.names = list(kept["seconds"])
        self.seconds = list(kept["seconds"].values())
        self.lines: dict[str, dict[str, list[int]]] = kept["lines"]

    @classmethod
    def of(cls, name: str, suite: Suite) -> Map:
        """The map of a suite, which is measured first if it has not been."""
        if not (FOLDER / f"{name}.json").exists():
            command = [sys.executable, "-m", "tests.mutation.record", name, *suite.tests]
            subprocess.run(command, cwd=ROOT, check=True)
        return cls(name)

    def tests(self, mutant: Mutant, budget: float) -> tuple[list[str], float]:
        """The cheapest tests that run the changed statement, up to a sum of seconds, and that sum.

        A statement that an import runs is run by none in particular: any test of the file may notice.
        """
        of_file = self.lines.get(mutant.file, {})
        hit = [of_file[str(line)] for line in mutant.lines if str(line) in of_file]
        found = {test for tests in hit for test in tests}
        if hit and not found:
            found = {test for tests in of_file.values() for test in tests}
        chosen: list[str] = []
        spent = 0.0
        for test in sorted(found, key=lambda test: (self.seconds[test], self.names[test])):
            if chosen and spent + self.seconds[test] > budget:
                break
            chosen.append(self.names[test])
            spent += self.seconds[test]
        return chosen, spent


def main() -> None:
    """Parse the arguments, run, report."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--module", default="", help="only files whose path holds this text")
    parser.add_argument("--sample", type=int, default=30, help="mutants per file, 0 for all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--budget", type=float, default=20.0, help="seconds of tests per mutant")
    parser.add_argument("--survivors", action="store_true", help="only those of the last run")
    parser.add_argument("--tests", nargs="*", help="run these test files, not the measured choice")
    arguments = parser.parse_args()
    os.environ |= CACHE
    FOLDER.mkdir(exist_ok=True)
    results = Results(FOLDER / "results.json")
    load_libraries()
    for name, suite in SUITES.items():
        files = sorted(
            str(path.relative_to(ROOT)) for glob in suite.files for path in ROOT.glob(glob)
        )
        files = [file for file in files if arguments.module in file]
        if not files:
            continue
        measured = None if arguments.tests else Map.of(name, suite)
        for file in files:
            run_file(file, measured, results, arguments)
    results.report(arguments.module)


def run_file(
    file: str, measured: Map | None, results: Results, arguments: argparse.Namespace
) -> None:
    """Test a sample of a file's mutants and keep what became of each."""

    def tests(mutant: Mutant) -> tuple[list[str], float]:
        if measured is None:
            return arguments.tests, arguments.budget
        return measured.tests(mutant, arguments.budget)

    results.total[file], queue = sample(ROOT, file, arguments.sample, arguments.seed)
    if arguments.survivors:
        queue = [m for m in queue if results.of.get(file, {}).get(str(m)) == "survived"]
    require_green(list(dict.fromkeys(test for mutant in queue for test in tests(mutant)[0])))
    running: dict[int, Mutant] = {}
    while queue or running:
        if queue and len(running) < arguments.workers:
            mutant = queue.pop()
            chosen, seconds = tests(mutant)
            if chosen:
                limit = round(60 + 3 * seconds)
                running[start(mutant, chosen, limit, LOG)] = mutant
            else:
                results.add(mutant, "survived")  # no test comes here
            continue
        child, status = os.wait()
        results.add(running.pop(child), outcome(status))
    results.save()


def require_green(tests: list[str]) -> None:
    """Without a mutant the tests must pass, in such a child too; else every mutant would seem killed."""
    if tests:
        _, status = os.waitpid(start(None, tests, 3600, LOG), 0)
        if os.waitstatus_to_exitcode(status):
            raise SystemExit(f"the tests fail without a mutant:\n{LOG.read_text()}")


class Results:
    """What became of each mutant, kept in a file so that survivors can be tried again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        kept = json.loads(path.read_text()) if path.exists() else {"total": {}, "of": {}}
        self.total: dict[str, int] = kept["total"]
        self.of: dict[str, dict[str, str]] = kept["of"]

    def add(self, mutant: Mutant, result: str) -> None:
        self.of.setdefault(mutant.file, {})[str(mutant)] = result
        print(f"{time.strftime('%H:%M:%S')} {result:8} {mutant}", flush=True)

    def save(self) -> None:
        self.path.write_text(json.dumps({"total": self.total, "of": self.of}, indent=1))

    def report(self, module: str) -> None:
        """Print a table of the files whose path holds `module`."""
        sums: Counter[str] = Counter()
        for file, of in sorted(self.of.items()):
            if module in file:
                count = Counter(of.values()) | Counter(tried=len(of), all=self.total[file])
                sums += count
                print(_row(file, count))
        print(_row("together", sums))


def _row(name: str, count: Counter[str]) -> str:
    killed = count["killed"] + count["timeout"]
    share = f"{killed / count['tried']:.1%}" if count["tried"] else ""
    return f"| {name} | {count['all']} | {count['tried']} | {killed} | {share} |"


if __name__ == "__main__":
    main()
