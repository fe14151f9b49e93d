"""The benchmark of the layer runs, and stops unless its sides compute the same. No timing is held."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

LAYER = Path(__file__).parents[2] / "benchmarks" / "layer.py"


@pytest.mark.slow
def test_layer_benchmark(tmp_path: Path) -> None:
    out = tmp_path / "layer.json"
    command = [sys.executable, str(LAYER), "--tiny", "--rounds", "1", "--json", str(out)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = json.loads(out.read_text())
    assert set(found["versions"]) >= {"jax", "torch", "flax", "jaxlstm"}
    assert found["device"]
    assert [row["pass"] for row in found["results"]] == ["forward"] * 2 + ["training"] * 2
    for row in found["results"]:
        assert set(row["ms"]) == {"torch", "jaxlstm", "flax nnx"}
        assert all(ms > 0 for ms in row["ms"].values())
        assert f"| {row['ms']['torch']:.3g} |" in printed
