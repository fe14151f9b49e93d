"""The notebook on the inner workings runs in a clean kernel and prints its committed output."""

import copy
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "examples" / "inner_workings.ipynb"


def outputs(notebook: nbformat.NotebookNode) -> list[str]:
    """Return the printed lines and "figure" for each figure, without rounding differences, which vary."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    found = [output for cell in cells for output in cell.outputs]
    texts = [
        "figure" if "image/png" in output.get("data", {}) else output.get("text", "") for output in found
    ]
    lines = [line for text in texts for line in text.splitlines()]
    return [line for line in lines if not (line.startswith(("outputs ", "h_n ", "c_n ")) and "e-" in line)]


@pytest.mark.slow  # `make docs` executes the notebook, too.
def test_prints_its_committed_output() -> None:
    """An exception in a cell, such as a failed comparison with PyTorch, propagates."""
    committed = nbformat.read(NOTEBOOK, as_version=4)
    assert outputs(committed).count("figure") == 3
    resources = {"metadata": {"path": NOTEBOOK.parent}}
    executed = NotebookClient(copy.deepcopy(committed), timeout=1200, resources=resources).execute()
    assert outputs(executed) == outputs(committed)
    assert NOTEBOOK.stat().st_size < 300_000
