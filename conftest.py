"""Fixtures for all tests. Test files whose optional dependencies are missing are not collected."""

import ast
import ctypes
import gc
import importlib.metadata
import importlib.util
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from testing.processes import resident_bytes

# Small problems, in a process per core: OpenMP's threads spend more time waiting for one another in a spin.
for _library in ("OMP", "OPENBLAS"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")

ROOT = Path(__file__).parent
FOLDERS = ("tests", "testing", "benchmarks", "tools")
OPTIONAL = ("torch", "expecttest", "grimp", "onnx")
MISSING = [name for name in OPTIONAL if importlib.util.find_spec(name) is None]


def _needs_missing(test: Path) -> bool:
    """Return True if a test file, or a module of `FOLDERS` that it loads, imports a missing package."""
    seen, files = {test}, [test]
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
            else:
                continue
            if any(module.split(".")[0] in MISSING for module in modules):
                return True
            loaded = {
                path
                for module in modules
                if module.split(".")[0] in FOLDERS
                for path in (ROOT / f"{module.replace('.', '/')}{end}.py" for end in ("", "/__init__"))
                if path.exists()
            }
            files += loaded - seen
            seen |= loaded
    return False


collect_ignore = [
    str(path)
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("test_*.py")
    if MISSING and _needs_missing(path)
]


# XLA's older code generator, in one thread, compiles small programs twice as fast. It gives the same float32
# and half-precision results to the last bit; float64 results differ by rounding. jaxlib has it up to 0.10; a
# later release ends the process at an unknown flag.
HAS_OLDER_GENERATOR = importlib.metadata.version("jaxlib").startswith("0.10.")
XLA_FLAGS = ("--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1")

LARGE_PROCESS = 1 << 31
"""Resident bytes from which a process is large: 2 GiB, so that two workers fit into 6 GiB."""
GROWTH = 1 << 29

# Many programs are compiled again in another test, in the other worker, or in a child process.
COMPILATION_CACHE = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


def _reused(make_context: Callable[[], Any], current: Callable[[], Any]) -> Callable[[], Any]:
    """Return a function that makes a new context of MLIR for every 64th program of a thread.

    Each takes 5 ms, a twentieth of the time of the tests, and holds the constants of its programs.
    """
    kept = threading.local()

    def context() -> Any:
        # A program that is lowered within another would become a part of it.
        if current() is not None:
            return make_context()
        kept.programs = getattr(kept, "programs", -1) + 1
        if kept.programs % 64 == 0:
            kept.context = make_context()
        return kept.context

    return context


def pytest_configure(config: pytest.Config) -> None:
    """Compile with few of XLA's optimizations unless the caller has set flags, and share compiled programs.

    Most tests compile far longer than they run. Tests, workers and child processes share a cache, which is
    empty at the start. ``JAX_ENABLE_COMPILATION_CACHE=false`` turns it off.
    """
    # A program's lines in the compiled code take a twentieth of the time of the tests.
    settings: dict[str, object] = {"jax_traceback_in_locations_limit": 0}
    if "XLA_FLAGS" not in os.environ:
        os.environ["XLA_FLAGS"] = " ".join(XLA_FLAGS) if HAS_OLDER_GENERATOR else ""
        settings |= {"jax_disable_most_optimizations": True}
        if HAS_OLDER_GENERATOR:
            from jax._src.interpreters import mlir
            from jaxlib.mlir import ir

            mlir.make_ir_context = _reused(mlir.make_ir_context, lambda: ir.Context.current)
    # A worker has a cache, and the caller may have chosen one.
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = tempfile.mkdtemp(prefix="jaxlstm-tests-")
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
        settings |= {"jax_compilation_cache_dir": folder, **COMPILATION_CACHE}
    os.environ.update({name.upper(): str(value) for name, value in settings.items()})
    import jax

    for name, value in settings.items():
        jax.config.update(name, value)


# Imports leave little garbage.
gc.disable()


def pytest_collection_finish() -> None:
    """Exempt what imports and collection made, which stays, from garbage collection.

    The collections of Python's default thresholds take a tenth of the time of the tests.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the rows of a parametrized test as slow that its marker ``quick`` does not name."""
    missing: dict[str, set[str]] = {}
    for item in items:
        for marker in item.iter_markers("quick"):
            function, _, row = item.nodeid.removesuffix("]").partition("[")
            missing.setdefault(function, {*marker.args}).discard(row)
            if row not in marker.args:
                item.add_marker(pytest.mark.slow)
    wrong = [f"{function}: {', '.join(sorted(rows))}" for function, rows in missing.items() if rows]
    if wrong and not any("[" in argument for argument in config.args):
        raise pytest.UsageError("the marker quick names rows that do not exist: " + "; ".join(wrong))


def pytest_collection() -> None:
    """Seed torch for the numbers that modules draw while they are imported."""
    if "torch" not in MISSING:
        import torch

        torch.manual_seed(0)


def pytest_report_header() -> list[str]:
    if not MISSING:
        return []
    return [f"{', '.join(MISSING)} not installed: {len(collect_ignore)} test files are not collected"]


@pytest.fixture
def optimized() -> Iterator[None]:
    """Compile with all of XLA's optimizations, without which float32 functions are less accurate."""
    import jax

    few = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()  # The setting is not among the keys of compiled functions.
    yield
    jax.config.update("jax_disable_most_optimizations", few)


_kept = [0]
"""Resident bytes after programs were dropped for the last time."""


@pytest.fixture(autouse=True)
def bounded_memory() -> Iterator[None]:
    """Drop JAX's compiled programs if this process is large and has grown. The cache on disk keeps them."""
    yield
    if resident_bytes() > max(LARGE_PROCESS, _kept[0] + GROWTH):
        import jax

        jax.clear_caches()
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # glibc, as /proc is Linux's
        _kept[0] = resident_bytes()


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Seed torch, so that a test draws the same numbers in any order of tests."""
    if "torch" not in MISSING:
        import torch

        # For other devices, torch.manual_seed would keep the stack of each call.
        torch.default_generator.manual_seed(0)
