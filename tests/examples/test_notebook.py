"""The notebook on the inner workings runs in a clean kernel and prints its committed output."""

from __future__ import annotations

import copy
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.slow  # `make docs` executes the notebook, too.

NOTEBOOK = Path(__file__).parents[2] / "examples" / "inner_workings.ipynb"


@pytest.fixture(scope="module")
def committed() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture(scope="module")
def executed(committed: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Run the notebook. An exception in a cell, such as a failed comparison with PyTorch, propagates."""
    fresh = copy.deepcopy(committed)
    for cell in fresh.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    client = NotebookClient(fresh, timeout=1200, resources={"metadata": {"path": NOTEBOOK.parent}})
    return client.execute()


def printed(notebook: nbformat.NotebookNode) -> list[str]:
    """Return the printed text of each code cell."""
    return [
        "".join(output.text for output in cell.outputs if output.output_type == "stream")
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def figures(notebook: nbformat.NotebookNode) -> int:
    outputs = [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def is_rounding(line: str) -> bool:
    """Return True for a row of a table of rounding differences, which depend on the machine."""
    return line.split(" ")[0] in ("outputs", "h_n", "c_n") and "e-" in line


def test_prints_its_committed_output(
    committed: nbformat.NotebookNode, executed: nbformat.NotebookNode
) -> None:
    for now, then in zip(printed(executed), printed(committed), strict=True):
        assert [line for line in now.splitlines() if not is_rounding(line)] == [
            line for line in then.splitlines() if not is_rounding(line)
        ]
    assert figures(executed) == figures(committed) == 3


def test_is_small() -> None:
    assert NOTEBOOK.stat().st_size < 300_000
