"""What all tests share: torch is needed by most, and where it is missing those are left out, aloud."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

HERE = Path(__file__).parent
OPTIONAL = ("torch", "onnx", "nbclient", "nbformat", "expecttest")
MISSING = [name for name in OPTIONAL if importlib.util.find_spec(name) is None]


def _needs_missing(path: Path) -> bool:
    """Whether a test file imports a package that is not installed, itself or by a helper it imports."""
    text = path.read_text()
    if any(re.search(rf"^\s*(import|from) {name}\b", text, re.MULTILINE) for name in MISSING):
        return True
    files = [
        HERE.parent / module.replace(".", "/") / name  # the module itself, or one in the package
        for module, names in re.findall(
            r"^from (tests[\w.]*) import (\([^)]*\)|[^\n]+)", text, re.MULTILINE
        )
        for name in ("", *re.findall(r"\w+", names))
    ]
    return any(_needs_missing(f.with_suffix(".py")) for f in files if f.with_suffix(".py").exists())


collect_ignore = [str(path) for path in HERE.rglob("test_*.py") if MISSING and _needs_missing(path)]


def pytest_report_header() -> list[str]:
    if not MISSING:
        return []
    return [f"{', '.join(MISSING)} not installed: {len(collect_ignore)} test files are left out"]
