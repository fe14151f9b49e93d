"""docs/programs.md: the snippets run, and the table of codes equals the code. Run this file to write it."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jaxlstm.programs.errors import CODES
from jaxlstm.programs.operators import registry

PAGE = Path(__file__).parents[2] / "docs" / "programs.md"


def with_codes(text: str) -> str:
    table = "\n".join(f"| `{code}` | {meaning} |" for code, meaning in CODES.items())
    new = f"<!-- codes -->\n{table}\n<!-- /codes -->"
    text, count = re.subn(r"<!-- codes -->\n.*<!-- /codes -->", new, text, flags=re.DOTALL)
    assert count == 1
    return text


def test_codes() -> None:
    assert PAGE.read_text() == with_codes(PAGE.read_text()), "run python -m tests.programs.test_docs"


def test_operators() -> None:
    """The site lists every operator; aten's are without their namespace."""
    source = [PAGE.read_text()]
    runpy.run_path(str(PAGE.with_name("conf.py")))["insert_tables"](None, "programs", source)
    operators = source[0].partition("## Operators\n")[2].replace("\n", " ").split(" · ")
    assert len(operators) > 400
    assert "add (Scalar, Tensor)" in operators
    assert "absolute" in operators


def test_snippets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_OPERATORS", dict(registry._OPERATORS))
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {"__name__": "programs"}
    for snippet in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(snippet, scope)
    expected = scope["tagger"](torch.from_numpy(scope["batch"]).long()).detach().numpy()
    result = scope["program"](scope["program"].params, scope["batch"])
    np.testing.assert_allclose(result, expected, atol=1e-6)
    assert scope["scores"].shape == expected.shape


if __name__ == "__main__":
    PAGE.write_text(with_codes(PAGE.read_text()))
