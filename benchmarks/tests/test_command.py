"""``python -m benchmarks``: usage, a part that fails, the recorded file, the tables of the documentation."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import __main__ as command
from benchmarks import parts, peers, record, report
from benchmarks.parts import Part


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    # pytest loads this file before jaxtyping 0.2.36 prepares to check jaxlstm, so it imports jaxlstm here.
    from benchmarks import __main__ as command
    from benchmarks import timing

    monkeypatch.setattr(command, "available_threads", lambda: 1)
    monkeypatch.setattr(timing, "BURST_SECONDS", 1e-4)
    monkeypatch.setattr(timing, "WARM_SECONDS", 1e-4)


ROW = {"case": "small", "unit": "ms", "values": {"jaxlstm": [1.0, 2.0, 3.0], "torch": [4.0, 6.0, 8.0]}}
EQUAL = {"case": "large", "unit": "ms", "values": {"jaxlstm": [1.0, 2.0, 3.0], "torch": [1.0, 1.5, 2.0]}}
FASTER = {"case": "odd", "unit": "ms", "values": {"jaxlstm": [2.0, 2.0, 3.0], "torch": [1.0, 1.0, 1.0]}}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two parts: the first yields a row, the second fails after its first row."""

    def fails(settings: Any) -> Any:
        yield ROW
        raise ValueError("no memory")

    functions = SimpleNamespace(works=lambda settings: iter([ROW]), fails=fails)
    monkeypatch.setattr(parts, "importlib", SimpleNamespace(import_module=lambda name: functions))
    monkeypatch.setattr(
        command, "PARTS", {n: Part("fake", n, "size", ("torch",)) for n in ("works", "fails")}
    )
    monkeypatch.setattr(command, "ALL", (("fails", "float32"), ("works", "float32")))


def in_this_process(words: list[str], **options: Any) -> SimpleNamespace:
    """Stand in for subprocess.run of a part; an exception becomes exit status 1."""
    try:
        return SimpleNamespace(returncode=command.main(words[3:]))
    except ValueError:
        return SimpleNamespace(returncode=1)


def test_a_part_that_fails_loses_only_its_own_rows(
    fake: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "subprocess", SimpleNamespace(run=in_this_process))
    monkeypatch.setattr(peers, "version", lambda distribution: None)
    out = tmp_path / "out.json"
    out.write_text("left from another run")
    assert command.main(["all", "--json", str(out)]) == 1
    document = json.loads(out.read_text())
    assert {name: part["rows"] for name, part in document["parts"].items()} == {
        "fails": [ROW],
        "works": [ROW],
    }
    assert document["parts"]["works"]["left_out"] == {"torch": "not installed: torch"}
    assert document["commit"] == record.identity()["commit"]
    assert {"dirty", "load_average_before", "kernels", "versions"} < document.keys()
    printed = capsys.readouterr().out
    assert printed.endswith("failed: fails\n")
    assert "left out: torch: not installed: torch\n" in printed


def test_a_file_of_another_commit_is_refused(
    fake: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    assert command.main(["works", "--json", str(out)]) == 0
    assert command.main(["works", "--json", str(out)]) == 0
    out.write_text(json.dumps(record.load(out) | {"commit": "0" * 40}))
    with pytest.raises(SystemExit, match="2"):
        command.main(["works", "--json", str(out)])
    assert f"commit: {'0' * 40}, here" in capsys.readouterr().err


def test_table() -> None:
    part = Part("fake", "run", "size", mean=True)
    rows = [ROW, EQUAL, FASTER | {"values": FASTER["values"] | {"jaxlstm Runner": [1.0, 1.0, 1.0]}}]
    lines = report.table(part, rows).splitlines()
    assert lines == [
        "| size | jaxlstm | torch | jaxlstm Runner |",
        "| --- | --- | --- | --- |",
        "| small | 2 ms | 3.00 | - |",
        "| large | 2 ms | equal | - |",
        "| odd | 2 ms | 0.50 | 0.50 |",
        "| geometric mean |  | 1.04 | 0.50 |",
    ]
    assert report.losses(rows) == "Ahead of jaxlstm: torch at odd (0.50)."
    assert report.losses([ROW]) == "No other library is ahead of jaxlstm here."
    assert report.losses([ROW, EQUAL]) == (
        "No other library is ahead of jaxlstm here beyond the noise; the lowest ratio is 0.75 (torch)."
    )
    assert report.overview({"run": rows, "measure": [{"case": "float32"}]}).splitlines() == [
        "- run: 1.04 (torch)",
        "",
        "Ahead of jaxlstm: torch at odd (0.50).",
    ]
    assert report.means([ROW]) == "Geometric means of other libraries' times, divided by ours: 3.00 (torch)."


def test_pages_are_those_of_the_recorded_runs() -> None:
    """Run `python -m benchmarks tables` if this fails."""
    blocks = 0
    for page in report.PAGES:
        text = page.read_text(encoding="utf-8")
        assert report.render(text) == text, page
        assert text.count("<!-- benchmark:") == len(report.BLOCK.findall(text)), page
        blocks += len(report.BLOCK.findall(text))
    assert blocks >= 10
