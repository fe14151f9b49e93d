"""The snippets of the README and of the pages run in order, and the quoted outputs are the real ones."""

import argparse
import ast
import doctest
import importlib
import io
import math
import re
import shlex
import sys
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
from jaxlstm.programs.operators import registry
from testing import exported
from testing.command import jaxlstm_command
from testing.pages import ROOT, blocks, fits, follow_page, public_objects, run_page

README = blocks("../README.md", "python")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the examples and the files that the pages mention."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    torch.save(torch.nn.LSTM(3, 4).state_dict(prefix="encoder.rnn."), "model.pt")
    return tmp_path


@pytest.fixture
def torch_model(monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    model = importlib.import_module("export_demo").Restorer().eval()
    model.load_state_dict(torch.load(ROOT / "examples/demo.pt")["model_state_dict"])
    return model


def test_readme_runs(folder: None, torch_model: torch.nn.Module) -> None:
    names: dict[str, Any] = {"torch_model": torch_model}
    for block in README:
        exec(compile(block, "README.md", "exec"), names)
    assert names["report"].ok
    assert names["state_dict"].keys() == torch_model.state_dict().keys()
    for ours, theirs in zip(
        names["model"](names["characters"]), (names["capital"], names["mark"]), strict=True
    ):
        assert abs(ours - theirs).max() < 1e-5


def test_readme_shows_the_report_of_an_edit(torch_model: torch.nn.Module) -> None:
    names: dict[str, Any] = {}
    exec(README[0].replace("batch_first=True, ", ""), names)
    model = names["Restorer"](rngs=nnx.Rngs(0))
    with pytest.warns(jaxlstm.PortingWarning, match="batch_first=False"):
        jaxlstm.load_state_dict(model, torch_model)
    args = (jnp.array([[9, 7, 14, 14, 17]]),)
    report = jaxlstm.check.verify_model(model, torch_model, args, seconds=math.inf)
    (quoted,) = blocks("../README.md", "text")
    assert fits(quoted, str(report)), report


def test_readme_shows_the_source_that_convert_writes(tmp_path: Path) -> None:
    jaxlstm.write_source(ROOT / "examples" / "demo.pt2", tmp_path / "restorer.py")
    written = ast.parse((tmp_path / "restorer.py").read_text())
    shown = ast.parse(README[0])
    assert [ast.unparse(node) for node in shown.body if isinstance(node, ast.ClassDef)] == [
        ast.unparse(node) for node in written.body if isinstance(node, ast.ClassDef)
    ]


def test_layer(folder: Path, capsys: pytest.CaptureFixture[str], torch_model: torch.nn.Module) -> None:
    inputs, lstm = torch.randn(2, 5, 16), torch_model.get_submodule("tagger.lstm")
    np.savez("recorded.npz", inputs=inputs, outputs=lstm(inputs)[0].detach())
    names = run_page("layer.md")
    assert names["batch_first"] is True
    names["recorded"].close()
    (quoted,) = re.findall(r"print\(.*?\)\s+# (\(.*\))", blocks("layer.md", "python")[0])
    assert quoted in capsys.readouterr().out


@pytest.mark.slow
def test_text_recogniser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's last model reads slanted text, in JAX and in torch; untrained weights return bit for bit."""
    for file in ("images.py", "torch_crnn.py", "crnn.pt"):
        (tmp_path / file).symlink_to(ROOT / "examples/crnn" / file)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    names = follow_page("crnn.md")
    assert names["before"] == pytest.approx((0.946, 0.036), abs=0.01)
    assert names["after"][0] > 0.9
    assert names["after"][1] > 0.65
    for slant, after in zip((0.0, 0.25), names["after"], strict=True):
        drawn, _, texts = names["images"].batch(500, np.random.default_rng(1), slant)
        logits = names["torch_model"].eval()(torch.from_numpy(drawn)).detach().numpy()
        assert names["images"].accuracy(logits, texts) == pytest.approx(after, abs=0.005)
    returned = jaxlstm.state_dict(names["load"]())
    for name, tensor in torch.load("crnn.pt")["model_state_dict"].items():
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(returned[name], tensor, err_msg=name)


@pytest.mark.slow
def test_api(folder: Path) -> None:
    """The examples contain assertions."""
    run_page("api.md")


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
    assert names["params"].keys() == jaxlstm.load("lstm.pt")[0].keys()


def test_inference(folder: Path) -> None:
    lstm = torch.nn.LSTM(3, 4, batch_first=True)
    torch.save(lstm.state_dict(), "checkpoint.pt")
    jaxlstm_command("export", "checkpoint.pt", "-o", "model.stablehlo", "--batch-first", "--platforms", "cpu")
    x, state = np.ones((1, 5, 3), np.float32), np.zeros((1, 1, 4), np.float32)
    given: dict[str, Any] = {"inputs": x, "many_inputs": [x[0]], "initial_state": (state, state), "chunk": x}
    given |= {"x": x[:, 0], "mask": np.array([True]), "seq_lengths": [5], "h_0": state, "c_0": state}
    given["config_option"] = lambda name, value: getattr(jax.config, name)
    exported.save(Path("model.pt2"), torch.nn.Linear(3, 4), torch.ones(1, 5, 3))
    # The cache would stay on after this test, and one device has no mesh of eight.
    names = run_page("inference.md", given, {"jax.config.update": "config_option", "(2, 4)": "(1, 1)"})
    expected = lstm(torch.from_numpy(x))[0].detach().numpy()
    np.testing.assert_allclose(names["outputs"], expected, atol=1e-6)
    sixth = lstm(torch.ones(1, 6, 3))[0][:, -1].detach().numpy()  # a chunk of five steps, then one step
    np.testing.assert_allclose(names["y"], sixth, atol=1e-6)
    assert not names["stream"].state.h.any()


def test_scale(folder: Path) -> None:
    torch.save(torch.nn.LSTM(3, 4).state_dict(), "checkpoint.pt")
    names = run_page("scale.md")
    assert list(names["batch"]) == ["id", "inputs", "outputs", "h_n", "c_n"]
    assert names["batch"]["outputs"][1].shape == (5, 4)


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


@pytest.mark.filterwarnings("ignore:.torch.jit.* is deprecated")
def test_torchscript(folder: Path) -> None:
    scope = run_page("torchscript.md")
    expected = scope["module"](torch.ones(3, 9, 4)).detach().numpy()
    np.testing.assert_allclose(scope["tags"], expected, atol=1e-6)


def test_programs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_OPERATORS", dict(registry._OPERATORS))
    scope = run_page("programs.md")
    expected = scope["tagger"](torch.from_numpy(scope["batch"]).long()).detach().numpy()
    result = scope["program"](scope["program"].params, scope["batch"])
    np.testing.assert_allclose(result, expected, atol=1e-6)
    assert scope["scores"].shape == expected.shape


def test_decoding(folder: Path) -> None:
    """The decoders give the texts of a Python loop in torch, of which some end."""
    torch.manual_seed(7)
    scope = run_page("decoding.md")
    params, model, end = scope["params"], scope["translator"], scope["END"]
    given = torch.randint(3, 40, (40, 6))
    token, state = torch.full_like(given[:, 0], scope["START"]), model.encode(given)
    expected, likelihood = torch.full((40, 20), end), torch.zeros(40)
    for n in range(20):
        scores, state = model.decode_step(token, state)
        likelihood += scores.max(-1).values * (token != end)
        expected[:, n] = token = torch.where(token == end, end, scores.argmax(-1))
    assert 0 < (token == end).sum() < 40

    words = given.numpy().astype(np.int32)
    beams, total = scope["beam_search"](params, words, 1)
    np.testing.assert_allclose(total[:, 0], likelihood.detach(), rtol=1e-5)
    for found in (beams[:, 0], scope["served"].call(words), jax.jit(scope["program"])(params, words)):
        np.testing.assert_array_equal(found, expected)
    assert (scope["beam_search"](params, words, 8)[1][:, 0] > likelihood.detach().numpy() + 0.01).mean() > 0.5


def test_written_source(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jaxlstm.write_source(ROOT / "examples" / "demo.pt2", "tagger.py")
    monkeypatch.syspath_prepend(folder)
    scope = run_page("written_source.md")
    assert scope["model"](np.zeros((2, 7), np.int32))[1].shape == (2, 7, 7)
    assert issubclass(scope["Translator"], nnx.Module)
    del sys.modules["tagger"]


def quoted_commands() -> dict[str, list[str]]:
    """Return the lines ``jaxlstm COMMAND ...`` in the fenced blocks of each page, without comments."""
    fenced = {page.name: "".join(blocks(page.name, "")) for page in (ROOT / "docs").glob("*.md")}
    fenced["README.md"] = (ROOT / "README.md").read_text()
    return {
        page: re.findall(r"^jaxlstm ([a-z]+ .*?)(?: +#.*)?$", text, re.MULTILINE)
        for page, text in fenced.items()
    }


def test_quoted_commands(folder: Path) -> None:
    """Every command is accepted and, except for ``check``, which takes long, and Ray, succeeds."""
    commands = argparse.ArgumentParser().add_subparsers()
    for command in COMMANDS:
        command.add_parser(commands)
    Path("in").mkdir(exist_ok=True)
    for file in ("x.npz", "X.npz", "sequences.npz", "in/x.npz"):
        np.savez(file, a=np.ones((5, 3), np.float32))
    np.savez("words.npz", a=np.zeros(7, np.int32))
    Path("FILE").symlink_to("model.pt")
    for file in ("tagger.pt2", "model.pt2"):
        Path(file).symlink_to(ROOT / "examples/demo.pt2")
    quoted = quoted_commands()
    assert {line.split()[0] for line in quoted["cli.md"]} == commands.choices.keys()
    for line in dict.fromkeys(line for lines in quoted.values() for line in lines):
        name, *arguments = shlex.split(line)
        commands.choices[name].parse_args(arguments)
        if name != "check" and "ray" not in arguments:
            done = jaxlstm_command(name, *arguments, *["--overwrite"] * (name != "inspect"))
            assert done.status == 0, (line, done.err)
