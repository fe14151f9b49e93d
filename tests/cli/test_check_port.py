"""``jaxlstm check FILE --port FILE.py:NAME``: the user's port."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from jaxlstm import cli

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
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    torch.save(torch.nn.LSTM(3, 4).state_dict(), tmp_path / "m.pt")
    (tmp_path / "mine.py").write_text(PORTS)
    (tmp_path / "beside.py").write_text("import jaxlstm\nCONFIG = jaxlstm.LSTMConfig(3, 4)\n")
    monkeypatch.chdir(tmp_path)
    # Restores sys.path, which the command extends.
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def check(port: str, *options: str) -> int:
    return cli.main(["check", "m.pt", "--dtype", "float32", "--port", port, *options])


def test_right_port_holds(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check("mine.py", "--json", "--report", "page.html") == 0
    (report,) = json.loads(capsys.readouterr().out)["reports"]
    assert report["settings"]["port"] == "port"
    assert report["again"].startswith("jaxlstm check m.pt --port mine.py --backend ")
    assert "m.pt: mine.py against torch" in (folder / "page.html").read_text()


def test_wrong_port_fails_with_a_diagnosis(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(f"{folder}/mine.py:onnx_order") == 1
    printed = capsys.readouterr().out
    assert "the gates are read in the order" in printed
    last = printed.splitlines()[-1]
    assert last.startswith(f"m.pt: {folder}/mine.py:onnx_order DOES NOT HOLD (cpu float32: ")
    assert last.endswith("; --verbose shows every item")


def test_module_in_the_working_directory(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check("mine:number") == 2
    error = capsys.readouterr().err
    assert "--port mine:number: number is not callable in mine" in error
    assert "name one of its functions (Settings, port, onnx_order)" in error


@pytest.mark.parametrize(
    ("port", "text", "message"),
    [
        ("none.py", None, "no such file: none.py"),
        ("mine.py:absent", None, "absent does not exist in mine.py; name one of its functions"),
        ("no_such_module:port", None, "No module named 'no_such_module'"),
        ("bad.py", "x = 1\ny = x / 0\n", "ZeroDivisionError: division by zero (bad.py, line 2)"),
        ("bad.py", "\nimport no_such_module\n", "'no_such_module' (bad.py, line 2)"),
        ("bad.py", "def port(:\n", "SyntaxError: invalid syntax (bad.py, line 1)"),
    ],
)
def test_unusable_port_is_refused_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], port: str, text: str | None, message: str
) -> None:
    if text is not None:
        (folder / port).write_text(text)
    assert check(port) == 2
    error = capsys.readouterr().err
    assert f"jaxlstm check: --port {port}: " in error
    assert message in error
    assert error.count("\n") == 1
