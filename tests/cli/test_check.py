"""``jaxlstm check``: backends, merged reports, ``--matrix``, the port, and the verdict on one screen."""

import html
import json
import re
from pathlib import Path

import jax
import pytest
import torch

from jaxlstm.check import Item, Report
from jaxlstm.cli import check
from testing.command import Result, jaxlstm_command


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    path = tmp_path / "m.pt"
    torch.save(torch.nn.LSTM(3, 4).state_dict(), path)
    return str(path)


@pytest.mark.slow
def test_matrix_prints_one_table(checkpoint: str) -> None:
    options = ["--matrix", "--dtype", "float32", "--backend", "all"]
    printed = jaxlstm_command("check", checkpoint, *options, status=0).out
    assert printed.count("\nfloat32, batch ") == 4
    assert re.search("^cpu matrix\n +1 step +12 steps +100 steps\n", printed)
    assert printed.endswith("m.pt: jaxlstm.lstm HOLDS (cpu matrix: 12 ok)\n")


def test_json_and_page_of_one_dtype(checkpoint: str, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    options = ["--dtype", "float32", "--seed", "7", "--json", "--report", page]
    done = jaxlstm_command("check", checkpoint, *options)
    assert (done.status, done.err) == (0, "")
    verdict = json.loads(done.out)
    (report,) = verdict.pop("reports")
    assert verdict == {"checkpoint": checkpoint, "ok": True, "not_run": []}
    platform = jax.default_backend()
    again = f"jaxlstm check {checkpoint} --backend {platform} --dtype float32 --seed 7"
    assert (report["backend"], report["dtype"], report["again"]) == (platform, "float32", again)
    assert report["ok"]
    assert report["settings"]["seed"] == 7
    text = page.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    for item in report["items"]:
        assert html.escape(f"{platform} float32: {item['name']}") in text
    assert f"  jaxlstm check {checkpoint} --dtype float32 --seed 7</pre>" in text


def test_failing_matrix_names_the_cell(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    row = "float32, batch 1, jit"
    items = (
        Item("a", True, 0.5, 4.0, "RMS error of results", {"row": row, "column": "1 step"}),
        Item("b", False, 7.0, 4.0, "RMS error of results: c_n", {"row": row, "column": "12 steps"}),
    )
    report = Report("jaxlstm.lstm", items)
    monkeypatch.setattr(check, "_check", lambda *arguments: [("matrix", report)])
    printed = jaxlstm_command("check", checkpoint, "--matrix", "--backend", "all", status=1).out
    assert re.search(r"float32, batch 1, jit +ok 0.5 +FAILED 7\n", printed)
    assert "matrix, b: RMS error of results: c_n\n" in printed
    for backend in ("cpu", "gpu", "tpu"):
        absent = f"{backend}: not run: JAX finds no such device\n" in printed
        assert absent != (f"{backend} matrix: 1 ok, 1 failed" in printed.splitlines()[-1])


PORTS = '''
from dataclasses import dataclass
import jax, jax.numpy as jnp, jaxlstm
from beside import CONFIG

@dataclass
class Settings:
    swapped: bool

def port(inputs, initial_state, seq_lengths, *, params):
    return jaxlstm.lstm(params, inputs, initial_state, config=CONFIG, seq_lengths=seq_lengths)

def onnx_order(inputs, initial_state, seq_lengths, *, params):
    """Read the gates in the order i, o, f, g."""
    order = jnp.array([0, 2, 3, 1])
    params = {name: a.reshape(4, 4, *a.shape[1:])[order].reshape(a.shape) for name, a in params.items()}
    return port(inputs, initial_state, seq_lengths, params=params)

number = 3
'''


@pytest.fixture
def folder(checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mine.py").write_text(PORTS)
    (tmp_path / "beside.py").write_text("import jaxlstm\nCONFIG = jaxlstm.LSTMConfig(3, 4)\n")
    monkeypatch.chdir(tmp_path)
    # Restores sys.path, which the command extends.
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def check_port(port: str, *options: str, status: int) -> Result:
    return jaxlstm_command("check", "m.pt", "--dtype", "float32", "--port", port, *options, status=status)


def test_right_port_holds(folder: Path) -> None:
    done = check_port("mine.py", "--json", "--report", "page.html", status=0)
    (report,) = json.loads(done.out)["reports"]
    assert report["settings"]["port"] == "port"
    assert report["again"].startswith("jaxlstm check m.pt --port mine.py --backend ")
    assert "m.pt: mine.py against torch" in (folder / "page.html").read_text()


def test_wrong_port_fails_with_a_diagnosis(folder: Path) -> None:
    printed = check_port(f"{folder}/mine.py:onnx_order", status=1).out
    assert "the gates are read in the order" in printed
    last = printed.splitlines()[-1]
    assert last.startswith(f"m.pt: {folder}/mine.py:onnx_order DOES NOT HOLD (cpu float32: ")
    assert last.endswith("; --verbose shows every item")


@pytest.mark.parametrize(
    ("port", "text", "message"),
    [
        (
            "mine:number",
            None,
            "number is not callable in mine; name one of its functions (Settings, port, onnx_order)",
        ),
        ("none.py", None, "no such file: none.py"),
        ("bad.py", "x = 1\ny = x / 0\n", "ZeroDivisionError: division by zero (bad.py, line 2)"),
        ("bad.py", "def port(:\n", "SyntaxError: invalid syntax (bad.py, line 1)"),
    ],
)
def test_unusable_port_is_refused_in_one_line(
    folder: Path, port: str, text: str | None, message: str
) -> None:
    if text is not None:
        (folder / port).write_text(text)
    error = check_port(port, status=2).err
    assert f"jaxlstm check: --port {port}: " in error
    assert message in error
    assert error.count("\n") == 1


SCREEN = 24
FAILED = tuple(Item(f"item {k}", False, 7.0, 1.0, f"detail {k}") for k in range(9))


def printed(checkpoint: str, monkeypatch: pytest.MonkeyPatch, *reports: Report, options: tuple = ()) -> str:
    named = [(f"float{32 * (k + 1)}", report) for k, report in enumerate(reports)]
    monkeypatch.setattr(check, "_check", lambda *_: named)
    done = jaxlstm_command("check", checkpoint, "--backend", "cpu", *options)
    assert done.status == (0 if all(report.ok for report in reports) else 1)
    return done.out


def test_a_real_check(checkpoint: str) -> None:
    done = jaxlstm_command("check", checkpoint, "--dtype", "float32", status=0)
    *lines, verdict = done.out.splitlines()
    assert re.fullmatch(re.escape(checkpoint) + r": jaxlstm\.lstm HOLDS \(cpu float32: \d+ ok\)", verdict)
    assert len(lines) < SCREEN
    assert "Environment" not in done.out
    assert any(line.startswith("step residual") and line.endswith(" <= 1") for line in lines)


def test_failures_come_first_and_are_few(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_check_without_tested_items_does_not_hold(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    untested = Report("a", (Item("lengths", None, detail="takes none"),))
    text = printed(checkpoint, monkeypatch, untested, Report("b", (Item("lengths", True),)))
    assert "lengths  untested" in text
    assert "DOES NOT HOLD (cpu float32: 1 untested; cpu float64: 1 ok)" in text.splitlines()[-1]


def test_verbose(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    report = Report("title", FAILED, settings={"seed": 3}, environment={"jax": "1.2"})
    quiet = printed(checkpoint, monkeypatch, report)
    assert "jax: 1.2" not in quiet
    assert "seed" not in quiet
    verbose = printed(checkpoint, monkeypatch, report, options=("--verbose",))
    for part in ("title: DOES NOT HOLD", "detail 8", "Settings:", "seed: 3", "Environment:", "jax: 1.2"):
        assert part in verbose
    assert verbose.splitlines()[-1] == quiet.splitlines()[-1].removesuffix("; --verbose shows every item")
