"""docs/programs.md: the snippets run, and the tables equal the code. Run this file to write the tables."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import jaxlstm.programs.acceptance  # registers the operators
from jaxlstm.programs.errors import CODES
from jaxlstm.programs.operators import registry

PAGE = Path(__file__).parents[2] / "docs" / "programs.md"


def operator_list() -> str:
    """Return the operators by base name: "add (Tensor, Scalar)", without "default"."""
    overloads: dict[str, list[str]] = {}
    for name in registry.operator_names():
        base, _, overload = name.removeprefix("aten.").rpartition(".")
        overloads.setdefault(base, []).append(overload)
    words = []
    for base, names in sorted(overloads.items()):
        words.append(f"{base}" if names == ["default"] else f"{base} ({', '.join(names)})")
    return textwrap.fill(" · ".join(words), 120, break_long_words=False, break_on_hyphens=False)


def code_table() -> str:
    return "\n".join(f"| `{code}` | {meaning} |" for code, meaning in CODES.items())


def with_tables(text: str) -> str:
    for name, content in (("codes", code_table()), ("operators", operator_list())):
        pattern = rf"<!-- {name} -->\n.*<!-- /{name} -->"
        text, count = re.subn(pattern, f"<!-- {name} -->\n{content}\n<!-- /{name} -->", text, flags=re.DOTALL)
        assert count == 1, name
    return text


def test_tables() -> None:
    assert PAGE.read_text() == with_tables(PAGE.read_text()), "run python -m tests.programs.test_docs"


# torch warns about the list of a GRU's weights, and about its own code in run_decompositions.
@pytest.mark.filterwarnings("ignore:The tensor attribute", "ignore:.isinstance.treespec, LeafSpec")
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
    gru, x, program = scope["gru"], scope["x"], jaxlstm.load_program("gru.pt2")
    outputs, _ = program(program.params, x.numpy())
    np.testing.assert_allclose(outputs, gru(x)[0].detach().numpy(), atol=1e-6)


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text()))
