"""Tests run against a mutant in a forked child: the libraries are loaded once, no file is changed."""

from __future__ import annotations

import contextlib
import importlib
import os
import resource
import signal
import sys
import traceback
from collections.abc import Mapping
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import pytest

from tests.mutation.mutants import Mutant
from tests.mutation.record import PYTEST, ROOT

LIBRARIES = (
    *("numpy", "jax.numpy", "jax.tree_util", "flax.nnx", "flax.linen", "torch"),
    *("safetensors.torch", "beartype", "hypothesis", "jaxtyping", "_hypothesis_pytestplugin"),
)
MEMORY = 8 << 30  # bytes; a mutant may try to allocate the world


def load_libraries() -> None:
    """Import what the tests need. The package under test stays out, and JAX starts no backend."""
    for name in LIBRARIES:
        importlib.import_module(name)
    os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))


def start(mutant: Mutant | None, tests: list[str], cpu_seconds: int, log: Path) -> int:
    """Fork a child that runs the tests, cheapest first as given, until one fails. Returns its process id.

    The kernel stops a child after `cpu_seconds` of processor time, or ten times that by the clock.
    """
    if child := os.fork():
        return child
    status = 1
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(10 * cpu_seconds)
        with log.open("w") as out:
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
        status = _run(mutant, tests)
    except BaseException:  # whatever it is, a mutant that stops pytest from running is seen
        with contextlib.suppress(BaseException):
            traceback.print_exc()
    finally:
        os._exit(status)


def outcome(status: int) -> str:
    """What the status of a child says about its mutant: killed, timeout or survived."""
    code = os.waitstatus_to_exitcode(status)
    if -code in (signal.SIGXCPU, signal.SIGALRM, signal.SIGKILL):
        return "timeout"
    return (
        "survived" if code in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED) else "killed"
    )


class _Chosen:
    """Only these tests, in this order. A mutant can rename a test by its parameters: that kills nothing."""

    def __init__(self, tests: list[str]) -> None:
        self.place = {test: i for i, test in enumerate(tests)}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted(
            (item for item in items if item.nodeid in self.place),
            key=lambda item: self.place[item.nodeid],
        )


def _run(mutant: Mutant | None, tests: list[str]) -> int:
    os.chdir(ROOT)
    sys.dont_write_bytecode = True
    if mutant:
        _put_in_place(mutant)
    files = list(dict.fromkeys(test.partition("::")[0] for test in tests))
    chosen = [_Chosen(tests)] if any("::" in test for test in tests) else []
    # Rewriting asserts would read the files past the loader: this package is a pytest plugin too.
    return int(pytest.main([*PYTEST, "--assert=plain", "-x", *files], plugins=chosen))


def _put_in_place(mutant: Mutant) -> None:
    """Let Python's own loader read the mutant's text where it would read the file, and no cached bytecode."""
    mutated = str(ROOT / mutant.file)
    get_data, path_stats = SourceFileLoader.get_data, SourceFileLoader.path_stats

    def mutated_data(self: SourceFileLoader, path: str) -> bytes:
        return mutant.source.encode() if path == mutated else get_data(self, path)

    def no_stats(self: SourceFileLoader, path: str) -> Mapping[str, Any]:
        if path == mutated:
            raise OSError("a mutant has no bytecode")
        return path_stats(self, path)

    SourceFileLoader.get_data = mutated_data
    SourceFileLoader.path_stats = no_stats
