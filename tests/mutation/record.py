"""Which test runs which line, and how long it takes: one run of the suite under coverage, kept as a file."""

from __future__ import annotations

import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import coverage
import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".mutate"  # what is measured, kept between runs

# Programs compiled in one run are read back in the next: a mutant recompiles only what it changes.
CACHE = {
    "JAX_COMPILATION_CACHE_DIR": str(FOLDER / "jax"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}
PYTEST = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not slow and not network"]


class _Recorder:
    def __init__(self, measured: coverage.Coverage) -> None:
        self.measured = measured
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.measured.switch_context(item.nodeid)
        result = yield
        self.measured.switch_context("")
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] += report.duration


def record(suite: str, tests: list[str]) -> int:
    """Run tests and keep the lines and seconds of each in `.mutate/SUITE.json`."""
    FOLDER.mkdir(exist_ok=True)
    measured = coverage.Coverage(
        data_file=None, source=[str(ROOT / "jaxlstm"), str(ROOT / "converters")], config_file=False
    )
    recorder = _Recorder(measured)
    measured.start()
    status = pytest.main([*PYTEST, *tests], plugins=[recorder])
    measured.stop()
    data = measured.get_data()
    number = {test: i for i, test in enumerate(recorder.seconds)}
    lines = {
        str(Path(file).relative_to(ROOT)): {
            line: [number[test] for test in tests if test]  # "" is what an import runs
            for line, tests in data.contexts_by_lineno(file).items()
        }
        for file in data.measured_files()
    }
    kept = {"seconds": recorder.seconds, "lines": lines}
    (FOLDER / f"{suite}.json").write_text(json.dumps(kept))
    return int(status)


if __name__ == "__main__":
    os.environ.update(CACHE)
    raise SystemExit(record(sys.argv[1], sys.argv[2:]))
