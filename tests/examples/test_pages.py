"""The pages about examples quote code and commands that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = {
    "crnn.md": ["examples/crnn"],
    "real_models.md": ["examples/real_models", "benchmarks/real_models.py"],
}


@pytest.mark.parametrize("page", SOURCES)
def test_every_quoted_line_is_in_a_script(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    paths = [ROOT / path for path in SOURCES[page]]
    files = [file for path in paths for file in (path.glob("*.py") if path.is_dir() else [path])]
    lines = {line.strip() for file in files for line in file.read_text(encoding="utf-8").splitlines()}
    quoted = re.findall(
        r"^ *\S.*$", "".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)), re.MULTILINE
    )
    assert quoted
    assert [line for line in quoted if line.strip() not in lines] == []
    assert all((ROOT / path).exists() for path in re.findall(r"python (examples/\S+\.py)", text))
