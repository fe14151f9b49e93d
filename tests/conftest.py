"""Fixtures for all tests. Test files whose optional dependencies are missing are not collected."""

from __future__ import annotations

import ast
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
OPTIONAL = ("torch", "onnx", "nbclient", "nbformat", "expecttest")
MISSING = [name for name in OPTIONAL if importlib.util.find_spec(name) is None]


def _needs_missing(path: Path) -> bool:
    """Return True if a test file, or a helper that it imports, imports a package that is not installed."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules, helpers = [alias.name for alias in node.names], []
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""] if node.level == 0 else []
            helpers = _helpers(path, node)
        else:
            continue
        if any(module.split(".")[0] in MISSING for module in modules):
            return True
        if any(_needs_missing(helper) for helper in helpers):
            return True
    return False


def _helpers(path: Path, node: ast.ImportFrom) -> list[Path]:
    """Return the files of `tests` or `testing` that a ``from ... import ...`` statement loads."""
    parts = (node.module or "").split(".") if node.module else []
    if node.level == 0 and parts[0] not in (HERE.name, "testing"):
        return []
    base = (path.parents[node.level - 1] if node.level else HERE.parent).joinpath(*parts)
    files = [base, *(base / alias.name for alias in node.names)]
    return [f.with_suffix(".py") for f in files if f.with_suffix(".py").exists()]


collect_ignore = [str(path) for path in HERE.rglob("test_*.py") if MISSING and _needs_missing(path)]


# Many programs are compiled again in another test, in the other worker, or in a child process.
COMPILATION_CACHE = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


def pytest_configure(config: pytest.Config) -> None:
    """Share compiled programs among the tests, workers and child processes of this run.

    The cache is empty at the start of a run. ``JAX_ENABLE_COMPILATION_CACHE=false`` turns it off.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return  # a worker, or a cache that the caller has chosen
    folder = tempfile.mkdtemp(prefix="jaxlstm-tests-")
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    settings = {"jax_compilation_cache_dir": folder, **COMPILATION_CACHE}
    os.environ.update({name.upper(): str(value) for name, value in settings.items()})
    import jax

    for name, value in settings.items():
        jax.config.update(name, value)


def pytest_report_header() -> list[str]:
    if not MISSING:
        return []
    return [f"{', '.join(MISSING)} not installed: {len(collect_ignore)} test files are not collected"]


@pytest.fixture(scope="module")
def fast_compilation() -> Iterator[None]:
    """Turn most of XLA's optimizations off, for tests that compile far longer than they run.

    XLA's float32 functions are less accurate then, so tests of accuracy do not use it.
    """
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Seed torch, so that a test draws the same numbers in any order of tests."""
    if "torch" not in MISSING:
        import torch

        torch.manual_seed(0)
