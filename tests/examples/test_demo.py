"""The examples in JAX agree with their PyTorch models: the demo tagger and the text recogniser."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import jaxlstm
from jaxlstm import load_program
from testing.command import jaxlstm_command
from testing.processes import run_python

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def scripts(folder: Path, *names: str) -> Iterator[SimpleNamespace]:
    """Yield scripts as modules. They import one another by name, so their folder is on the path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})


@pytest.fixture(scope="module")
def examples() -> Iterator[SimpleNamespace]:
    yield from scripts(EXAMPLES, "punctuation", "tag", "train_demo", "export_demo")


@pytest.fixture(scope="module")
def restorer(examples: SimpleNamespace) -> torch.nn.Module:
    model = examples.train_demo.Restorer()
    checkpoint = torch.load(examples.train_demo.CHECKPOINT, weights_only=True)
    model.load_state_dict(checkpoint["model_state_dict"], strict=True)
    return model.eval()


@pytest.mark.parametrize("name", ["demo.pt", "demo.pt2"])
def test_files_are_small(name: str) -> None:
    assert (EXAMPLES / name).stat().st_size < 300_000


def test_program_is_the_export_of_the_checkpoint(examples: SimpleNamespace) -> None:
    program, exported = load_program(examples.tag.PROGRAM), examples.export_demo.export()
    for name, parameter in exported.params.items():
        np.testing.assert_array_equal(program.params[name], parameter, strict=True)
    assert [node.op for node in program.graph.nodes] == [node.op for node in exported.graph.nodes]
    assert program.inputs[0].type.shape == tuple(program.graph.ranges)  # type: ignore[union-attr]


def test_readme_reports_the_scores_of_the_checkpoint(
    examples: SimpleNamespace, restorer: torch.nn.Module
) -> None:
    """The committed weights reach the documented scores on the held-out chapter."""
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    scores = examples.train_demo.evaluate(restorer)
    assert f"F1 of capitals {scores['capital_f1']:.3f}, of marks {scores['mark_f1']:.3f}" in readme


def test_whole_model_equals_torch(examples: SimpleNamespace, restorer: torch.nn.Module) -> None:
    """Compare all logits of the held-out chapter (11,000 characters) and the restored text."""
    original = " ".join(examples.punctuation.read_paragraphs(examples.train_demo.TEST_CHAPTERS))
    text = examples.punctuation.strip(original).text
    characters = np.array([examples.punctuation.encode(text)])
    with torch.no_grad():
        torch_logits = restorer(torch.tensor(characters))
        oracle = copy.deepcopy(restorer).double()(torch.tensor(characters))
    for ours, theirs, exact in zip(examples.tag.logits(characters), torch_logits, oracle, strict=True):
        assert ours.shape == theirs.shape
        assert rms(ours - exact.numpy()) <= 2 * rms(theirs.numpy() - exact.numpy())
    capital, mark = torch_logits
    expected = examples.punctuation.restore(text, (capital[0] > 0).tolist(), mark[0].argmax(-1).tolist())
    assert examples.tag.punctuate(original) == expected
    assert expected != text


def rms(difference: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.asarray(difference, np.float64) ** 2)))


def test_tag_runs_without_torch(examples: SimpleNamespace) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; sys.path.insert(0, sys.argv.pop(1)); import tag; tag.main()"
    )
    text = "alice opened her eyes and said the queen who is that"
    printed = run_python("-c", code, EXAMPLES, text)
    assert f"restored:\n{examples.tag.punctuate(text)}\n" in printed


def test_strip_and_restore_are_inverse(examples: SimpleNamespace) -> None:
    strip, restore = examples.punctuation.strip, examples.punctuation.restore
    stripped = strip("`Oh, dear!' she said--\"it's a tea-party, isn't it?\"  Well; no.")
    assert stripped.text == "oh dear she said it's a tea-party isn't it well no"
    assert restore(*stripped) == "Oh, dear! she said it's a tea-party, isn't it? Well; no."
    book = strip(" ".join(examples.punctuation.read_paragraphs(range(1, 13))))
    assert strip(restore(*book)) == book


FOLDER = EXAMPLES / "crnn"
PAGE = (ROOT / "docs" / "crnn.md").read_text()


@pytest.fixture(scope="module")
def crnn() -> Iterator[SimpleNamespace]:
    yield from scripts(FOLDER, "images", "train", "port")


@pytest.fixture(scope="module")
def torch_model(crnn: SimpleNamespace) -> torch.nn.Module:
    model = crnn.train.CRNN()
    model.load_state_dict(torch.load(crnn.train.CHECKPOINT, weights_only=True)["model_state_dict"])
    return model.eval()


def test_the_shipped_checkpoint(crnn: SimpleNamespace, torch_model: torch.nn.Module) -> None:
    """The Flax model reads the same texts as torch, from nearly the same logits."""
    assert crnn.train.CHECKPOINT.stat().st_size < 300_000
    model = crnn.port.load()
    images, _, texts = crnn.images.batch(64, np.random.default_rng(1))
    logits = np.asarray(model(jnp.asarray(images)))
    with torch.no_grad():
        expected = torch_model(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-4)
    assert crnn.images.decode(logits) == crnn.images.decode(expected)
    assert crnn.images.accuracy(logits, texts) > 0.85


def test_back_to_torch(crnn: SimpleNamespace, torch_model: torch.nn.Module, tmp_path: Path) -> None:
    """Without training, every weight has the bits of the checkpoint; torch's strict load accepts it."""
    crnn.port.write_for_torch(crnn.port.load(), tmp_path / "back.pt")
    back = torch.load(tmp_path / "back.pt", weights_only=True)["model_state_dict"]
    crnn.train.CRNN().load_state_dict(back, strict=True)
    for name, tensor in torch_model.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(back[name], tensor), name


def test_inspect_prints_the_table_of_the_page(crnn: SimpleNamespace) -> None:
    printed = jaxlstm_command("inspect", crnn.train.CHECKPOINT, "--all").out
    table = re.search(r"```\n(layer .*?)\n```", PAGE, re.DOTALL)
    assert table is not None
    assert table[1] in printed


@pytest.mark.slow
def test_verify(crnn: SimpleNamespace) -> None:
    report = crnn.port.verify(crnn.port.load())
    assert report.ok, str(report)


@pytest.mark.slow
@pytest.mark.parametrize("mistake", ["flatten order", "strides", "batch_first"])
def test_mistakes_of_the_page_fail(
    mistake: str, crnn: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = crnn.port.load()
    if mistake == "batch_first":
        model.lstm.config = dataclasses.replace(model.lstm.config, batch_first=False)
    elif mistake == "strides":
        pool = nnx.max_pool
        monkeypatch.setattr(nnx, "max_pool", lambda x, window, strides: pool(x, window, padding="SAME"))
    else:
        call = jaxlstm.nnx.LSTM.__call__

        def with_height_first(lstm: jaxlstm.nnx.LSTM, columns: jax.Array) -> Any:
            channels_first = columns.reshape(*columns.shape[:2], 32, 4)
            return call(lstm, channels_first.swapaxes(2, 3).reshape(columns.shape))

        monkeypatch.setattr(jaxlstm.nnx.LSTM, "__call__", with_height_first)
    report = crnn.port.verify(model)
    assert not report.ok
    if mistake == "flatten order":
        cause = "matches CRNN if flatten in forward merges axes 2, 3 in the order 3, 2"
        assert cause in str(report)
        assert cause in PAGE


@pytest.mark.slow
def test_port_script(crnn: SimpleNamespace, tmp_path: Path) -> None:
    """The script prints the verdict and accuracy of the page; the tuned model is as accurate in torch."""
    printed = run_python(FOLDER / "port.py", tmp_path / "slanted.pt")
    lines = [line for line in printed.splitlines() if line.startswith(("CRNN", "accuracy"))]
    assert lines[0] == "CRNN in float32: HOLDS (9 ok)"
    assert lines[1] in PAGE
    upright, slanted = (float(value) for value in re.findall(r"\d\.\d+", lines[2]))
    assert slanted > 0.7
    model = crnn.train.CRNN()
    model.load_state_dict(torch.load(tmp_path / "slanted.pt", weights_only=True)["model_state_dict"])
    assert crnn.train.evaluate(model, slant=crnn.port.SLANT) == pytest.approx(slanted, abs=0.005)
    assert crnn.train.evaluate(model) == pytest.approx(upright, abs=0.005)


@pytest.mark.slow
def test_train_script(tmp_path: Path) -> None:
    """The script prints the accuracy of the page and writes the shipped checkpoint."""
    printed = run_python(FOLDER / "train.py", tmp_path / "crnn.pt")
    accuracy = re.search(r"accuracy (\d\.\d+)", printed)
    assert accuracy is not None
    assert float(accuracy[1]) > 0.9
    found = jaxlstm.read_checkpoint(tmp_path / "crnn.pt")
    assert {n: t.shape for n, t in found.items()} == {
        n: t.shape for n, t in jaxlstm.read_checkpoint(FOLDER / "crnn.pt").items()
    }
