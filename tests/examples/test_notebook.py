"""The notebook on the inner workings runs in a clean kernel and prints its committed output."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.slow  # `make docs` executes the notebook, too.

NOTEBOOK = Path(__file__).parents[2] / "examples" / "inner_workings.ipynb"


def printed(notebook: nbformat.NotebookNode) -> tuple[list[str], int]:
    """Return the printed lines, and the number of figures.

    Rows of tables of rounding differences are left out, because they depend on the machine.
    """
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    text = "".join(output.text for output in outputs if output.output_type == "stream")
    lines = [line for line in text.splitlines() if not re.match(r"(outputs|h_n|c_n) .*e-", line)]
    return lines, sum("image/png" in output.get("data", {}) for output in outputs)


def test_prints_its_committed_output() -> None:
    """An exception in a cell, such as a failed comparison with PyTorch, propagates."""
    committed = nbformat.read(NOTEBOOK, as_version=4)
    fresh = copy.deepcopy(committed)
    for cell in fresh.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    NotebookClient(fresh, timeout=1200, resources={"metadata": {"path": NOTEBOOK.parent}}).execute()
    assert printed(fresh) == printed(committed)
    assert printed(fresh)[1] == 3
    assert NOTEBOOK.stat().st_size < 300_000
