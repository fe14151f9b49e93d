"""``jaxlstm check`` prints at most one screen, and the verdict is the last line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from jaxlstm.check import Item, Report
from jaxlstm.cli import check
from testing.command import jaxlstm_command

SCREEN = 24
ITEMS = tuple(Item(f"item {k}", True, 0.5, 1.0, "detail") for k in range(13))
FAILED = tuple(Item(f"item {k}", False, 7.0, 1.0, f"detail {k}") for k in range(9))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.save(torch.nn.LSTM(3, 4).state_dict(), tmp_path / "m.pt")
    return tmp_path / "m.pt"


def printed(checkpoint: Path, monkeypatch: pytest.MonkeyPatch, *reports: Report, options: tuple = ()) -> str:
    named = [(f"float{32 * (k + 1)}", report) for k, report in enumerate(reports)]
    monkeypatch.setattr(check, "_check", lambda *_: named)
    done = jaxlstm_command("check", checkpoint, "--backend", "cpu", *options)
    assert done.status == (0 if all(report.ok for report in reports) else 1)
    return done.out


def test_a_real_check(checkpoint: Path) -> None:
    done = jaxlstm_command("check", checkpoint, "--dtype", "float32")
    assert done.status == 0
    *lines, verdict = done.out.splitlines()
    assert verdict == f"{checkpoint}: jaxlstm.lstm HOLDS (cpu float32: 13 ok)"
    assert len(lines) < SCREEN
    assert "Environment" not in done.out
    assert any(line.startswith("step residual") and line.endswith(" <= 1") for line in lines)


def test_items_of_two_runs_share_a_table(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = printed(
        checkpoint, monkeypatch, Report("a", ITEMS, notes=("odd",)), Report("b", ITEMS[:2], notes=("odd",))
    )
    lines = text.splitlines()
    assert len(lines) <= SCREEN
    assert lines[0].split() == ["item", "cpu", "float32", "cpu", "float64"]
    assert lines[1].split() == ["item", "0", "0.5", "<=", "1", "0.5", "<=", "1"]
    assert lines[13].split() == ["item", "12", "0.5", "<=", "1"]
    assert text.count("note: odd") == 1
    assert lines[-1] == f"{checkpoint}: jaxlstm.lstm HOLDS (cpu float32: 13 ok; cpu float64: 2 ok)"


def test_failures_come_first_and_are_few(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = Report("a", FAILED, diagnosis=tuple(f"cause {k}" for k in range(9)))
    text = printed(checkpoint, monkeypatch, bad, bad)
    lines = text.splitlines()
    assert len(lines) <= SCREEN
    assert lines[0] == "FAILED cpu float32, item 0: detail 0"
    assert lines[5] == "... and 13 more"
    assert text.count("cause 0") == 1
    assert lines[-1].endswith(
        "DOES NOT HOLD (cpu float32: 9 failed; cpu float64: 9 failed); --verbose shows every item"
    )


def test_a_check_without_tested_items_does_not_hold(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = printed(checkpoint, monkeypatch, Report("a", (Item("lengths", None, detail="takes none"),)))
    assert "lengths  untested" in text
    assert "DOES NOT HOLD (cpu float32: 1 untested)" in text.splitlines()[-1]


def test_verbose(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = Report("title", FAILED, settings={"seed": 3}, environment={"jax": "1.2"})
    quiet = printed(checkpoint, monkeypatch, report)
    assert "jax: 1.2" not in quiet
    assert "seed" not in quiet
    verbose = printed(checkpoint, monkeypatch, report, options=("--verbose",))
    for part in ("title: DOES NOT HOLD", "detail 8", "Settings:", "seed: 3", "Environment:", "jax: 1.2"):
        assert part in verbose
    assert verbose.splitlines()[-1] == quiet.splitlines()[-1].removesuffix("; --verbose shows every item")


@pytest.mark.parametrize("options", [("--batch-first", "--dropout", "0.0"), ("--no-batch-first",), ()])
def test_the_command_to_reproduce_has_the_given_options(
    options: tuple, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = printed(checkpoint, monkeypatch, Report("a", ITEMS), options=("--verbose", *options))
    again = " ".join(("jaxlstm check", str(checkpoint), *options, "--backend cpu --dtype float32 --seed 0"))
    assert again in [line.strip() for line in text.splitlines()]
