"""The tutorials, the pages whose snippets take files or models as given, and the quoted commands run."""

from __future__ import annotations

import argparse
import doctest
import io
import pydoc
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen, nnx

import jaxlstm
from jaxlstm.cli import COMMANDS
from testing.command import jaxlstm_command
from testing.pages import ROOT, blocks, run_page

API = (ROOT / "docs" / "api.md").read_text()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the examples and a checkpoint of one LSTM."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    torch.save(torch.nn.LSTM(3, 4).state_dict(prefix="encoder.rnn."), "model.pt")
    return tmp_path


def test_every_public_function_and_error_has_an_example() -> None:
    """In its docstring or on a page."""
    directives = re.findall(r"^\.\. auto(?:function|exception):: (\S+)$", API, re.MULTILINE)
    pages = [page.name for page in (ROOT / "docs").glob("*.md")]
    code = [block for page in pages for block in blocks(page, "python")]
    finder = doctest.DocTestFinder()
    for name, target in public_objects().items():
        code += [example.source for test in finder.find(target, name) for example in test.examples]
    names = {name.rpartition(".")[2] for name in directives}
    assert {n for n in names if not re.search(rf"\b{n}\(|\.{n}\b", "\n".join(code))} == set()
    public = {*jaxlstm.__all__, *jaxlstm.check.__all__, *jaxlstm.inference.__all__}
    assert {name for name in public if name not in API} == {"__version__", "Params"}


@pytest.mark.slow
def test_api(folder: Path) -> None:
    """The examples contain assertions."""
    run_page("api.md")


def public_objects() -> dict[str, Any]:
    """Return the functions and classes that the API reference lists, by their full names."""
    found, module = {}, "jaxlstm"
    for directive, name in re.findall(r"^\.\. (\w+):: (\S+)$", API, re.MULTILINE):
        if directive == "currentmodule":
            module = name
        elif directive in ("autofunction", "autoclass"):
            full = name if name.startswith("jaxlstm.") else f"{module}.{name}"
            found[full] = pydoc.locate(full)
    return found


def test_examples_of_docstrings(folder: Path) -> None:
    """They run as typed after the imports of the page."""
    scope = {"jax": jax, "jnp": jnp, "np": np, "nnx": nnx, "torch": torch, "jaxlstm": jaxlstm}
    finder, runner, shown = doctest.DocTestFinder(), doctest.DocTestRunner(), io.StringIO()
    objects = public_objects()
    assert len(objects) > 50
    for name, target in objects.items():
        assert target.__doc__, name
        for test in finder.find(target, name, globs=dict(scope)):
            runner.run(test, out=shown.write)
    assert runner.failures == 0, shown.getvalue()
    assert runner.tries > 30


@pytest.mark.slow
def test_voice_detector(folder: Path) -> None:
    names = run_page("voice_detector.md")
    assert names["report"].ok, str(names["report"])
    assert abs(names["live"] - names["whole"]).max() < 1e-4
    assert ((names["live"] > 0) == (names["new_speech"] > 0)).mean() > 0.9


@pytest.mark.slow
def test_fine_tuning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page compares both APIs with each other and with torch; the loss falls at every step."""
    for file in ("demo.pt", "data", "punctuation.py", "train_demo.py"):
        (tmp_path / file).symlink_to(ROOT / "examples" / file)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    names = run_page("fine_tuning.md")
    assert (np.diff(names["nnx_losses"]) < 0).all()
    saved = torch.load("tuned.pt")["model_state_dict"]
    for name, tensor in saved.items():
        np.testing.assert_array_equal(tensor.numpy(), names["tensors"][name], err_msg=name)


def test_optimizer(folder: Path) -> None:
    """The page makes torch's next step."""
    lstm = torch.nn.LSTM(3, 4, batch_first=True)
    adam = torch.optim.Adam(lstm.parameters(), lr=0.1)

    def step() -> None:
        adam.zero_grad()
        (lstm(torch.ones(3, 9, 3))[0] ** 2).mean().backward()
        adam.step()

    step()
    torch.save({"model": lstm.state_dict(), "optimizer": adam.state_dict()}, "checkpoint.pt")
    step()
    names = run_page("optimizer.md")
    for name, tensor in lstm.state_dict().items():
        np.testing.assert_allclose(names["params"][name], tensor, atol=1e-4, err_msg=name)


def test_containers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = run_page("containers.md")
    assert names["array"].shape == (29, 16)
    assert capsys.readouterr().out.startswith("torch zip {} ")


def test_inference(folder: Path) -> None:
    lstm = torch.nn.LSTM(3, 4, batch_first=True)
    torch.save(lstm.state_dict(), "checkpoint.pt")
    jaxlstm_command("export", "checkpoint.pt", "-o", "model.stablehlo", "--batch-first", "--platforms", "cpu")
    x, state = np.ones((1, 5, 3), np.float32), np.zeros((1, 1, 4), np.float32)
    given: dict[str, Any] = {"inputs": x, "initial_state": (state, state), "chunk": x}
    given |= {"x": x[:, 0], "mask": np.array([True]), "seq_lengths": [5], "h_0": state, "c_0": state}
    given["config_option"] = lambda name, value: getattr(jax.config, name)
    # The cache would stay on after this test, and one device has no mesh of eight.
    names = run_page("inference.md", given, {"jax.config.update": "config_option", "(2, 4)": "(1, 1)"})
    expected = lstm(torch.from_numpy(x))[0].detach().numpy()
    np.testing.assert_allclose(names["outputs"], expected, atol=1e-6)
    sixth = lstm(torch.ones(1, 6, 3))[0][:, -1].detach().numpy()  # a chunk of five steps, then one step
    np.testing.assert_allclose(names["y"], sixth, atol=1e-6)
    assert not names["stream"].state.h.any()


def test_checking(folder: Path, jaxlstm_verify: Callable[..., Any]) -> None:
    torch_model, dense = torch.nn.Linear(3, 2), linen.Dense(2)
    x = jnp.ones((2, 3))
    given: dict[str, Any] = {"x": x, "torch_model": torch_model, "linen": dense}
    given["model"] = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    jaxlstm.load_state_dict(given["model"], torch_model)
    given["variables"] = jaxlstm.linen.load_state_dict(
        dense, dense.init(jax.random.key(0), x), torch_model, inputs=x
    )
    given["program"] = jaxlstm.from_module(torch_model, (torch.ones(2, 3),))
    given["state_dict"] = given["expected"] = torch_model.state_dict()
    given["convert"] = lambda state_dict: {name: tensor.numpy() for name, tensor in state_dict.items()}
    names = run_page("checking.md", given, {"examples/demo.pt": "model.pt"})
    assert names["report"].ok
    assert "HOLDS" in Path("report.html").read_text()
    names["test_my_port"](jaxlstm_verify)
    names["test_my_tree"]()


def quoted_commands() -> dict[str, list[str]]:
    """Return the lines ``jaxlstm COMMAND ...`` in the fenced blocks of each page, without comments."""
    fenced = {page.name: "".join(blocks(page.name, "")) for page in (ROOT / "docs").glob("*.md")}
    fenced["README.md"] = (ROOT / "README.md").read_text()
    return {
        page: re.findall(r"^jaxlstm ([a-z]+ .*?)(?: +#.*)?$", text, re.MULTILINE)
        for page, text in fenced.items()
    }


def test_quoted_commands(folder: Path) -> None:
    """Every command is accepted and, except for ``check``, which takes long, succeeds."""
    commands = argparse.ArgumentParser().add_subparsers()
    for command in COMMANDS:
        command.add_parser(commands)
    Path("in").mkdir(exist_ok=True)
    for file in ("x.npz", "X.npz", "sequences.npz", "in/x.npz"):
        np.savez(file, a=np.ones((5, 3), np.float32))
    np.savez("words.npz", a=np.zeros(7, np.int32))
    Path("FILE").symlink_to("model.pt")
    Path("tagger.pt2").symlink_to(ROOT / "examples/demo.pt2")
    lines = [line for quoted in quoted_commands().values() for line in quoted]
    assert len(lines) >= 15
    for line in dict.fromkeys(lines):
        name, *arguments = shlex.split(line)
        commands.choices[name].parse_args(arguments)
        if name != "check":
            done = jaxlstm_command(name, *arguments, *["--overwrite"] * (name != "inspect"))
            assert done.status == 0, (line, done.err)
