"""``jaxlstm check``: where it ran, what it did not run on, and ``--matrix``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest
import torch

from jaxlstm import cli, stack
from jaxlstm.check import Item, Report
from jaxlstm.cli import check


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    path = tmp_path / "m.pt"
    torch.save(torch.nn.LSTM(3, 4).state_dict(), path)
    return str(path)


@pytest.fixture
def wrong_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The candidate and the output gate change places in bfloat16 alone."""
    right = stack.direction_params

    def wrong(*arguments: Any) -> dict[str, Any]:
        params = right(*arguments)
        i, f, g, o = jnp.split(params["weight_ih"], 4)
        if i.dtype == jnp.bfloat16:
            params = {**params, "weight_ih": jnp.concatenate([i, f, o, g])}
        return params

    monkeypatch.setattr(stack, "direction_params", wrong)


@pytest.mark.slow
def test_matrix_prints_one_table(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["check", checkpoint, "--matrix", "--dtype", "float32", "--backend", "all"]
    assert cli.main(arguments) == 0
    told = capsys.readouterr().out
    assert "dtype x batch x length x jit: HOLDS (12 ok)" in told
    assert told.count("\nfloat32, batch ") == 4 * told.count("HOLDS")
    assert "1 step         12 steps        100 steps" in told
    assert "m.pt on cpu" in told


@pytest.mark.usefixtures("wrong_layer")
def test_matrix_is_status_1_if_any_cell_fails(
    checkpoint: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    arguments = ["check", checkpoint, "--matrix", "--dtype", "bfloat16"]
    assert cli.main([*arguments, "--json", "--report", str(page)]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is False
    (report,) = told["reports"]
    assert (report["dtype"], report["schema"], len(report["items"])) == ("matrix", 1, 12)
    assert {item["status"] for item in report["items"]} == {"FAILED"}
    assert "cpu matrix: bfloat16, batch 1, 12 steps, no jit" in page.read_text()


def test_a_failing_matrix_says_where(
    checkpoint: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    items = (
        Item("float32, batch 1, 1 step, jit", True, 0.5, 4.0, "RMS error of results"),
        Item("float32, batch 1, 12 steps, jit", False, 7.0, 4.0, "RMS error of results: c_n"),
    )
    report = Report("jaxlstm.lstm", items)
    monkeypatch.setattr(check, "_matrix", lambda *arguments: [("matrix", report)])
    assert cli.main(["check", checkpoint, "--matrix", "--backend", "all"]) == 1
    told = capsys.readouterr().out
    assert "jaxlstm.lstm: DOES NOT HOLD (1 ok, 1 failed)" in told
    assert re.search(r"float32, batch 1, jit +ok 0.5 +FAILED 7\n", told)
    assert "FAILED float32, batch 1, 12 steps, jit: RMS error of results: c_n\n" in told
    for backend in ("cpu", "gpu", "tpu"):
        absent = f"{backend}: not run, JAX sees no such device here\n" in told
        assert absent != (f"{checkpoint} on {backend}\n" in told)
