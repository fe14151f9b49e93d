"""The demo tagger in JAX agrees with its PyTorch model, and training writes the shipped text recogniser."""

from __future__ import annotations

import copy
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import jaxlstm
from jaxlstm import load_program
from testing.problems import rms
from testing.processes import run_python

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def examples() -> Iterator[SimpleNamespace]:
    """Yield the scripts as modules. They import one another by name, so their folder is on the path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        names = ("punctuation", "tag", "train_demo", "export_demo")
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})


@pytest.fixture(scope="module")
def restorer(examples: SimpleNamespace) -> torch.nn.Module:
    model = examples.train_demo.Restorer()
    checkpoint = torch.load(examples.train_demo.CHECKPOINT, weights_only=True)
    model.load_state_dict(checkpoint["model_state_dict"], strict=True)
    return model.eval()


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
        assert rms(ours, exact) <= 2 * rms(theirs, exact)
    capital, mark = torch_logits
    expected = examples.punctuation.restore(text, (capital[0] > 0).tolist(), mark[0].argmax(-1).tolist())
    assert examples.tag.punctuate(original) == expected
    assert expected != text


def test_tag_runs_without_torch(examples: SimpleNamespace) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; sys.path.insert(0, sys.argv.pop(1)); import tag; tag.main()"
    )
    text = "alice opened her eyes and said the queen who is that"
    printed = run_python("-c", code, EXAMPLES, text)
    assert f"restored:\n{examples.tag.punctuate(text)}\n" in printed


@pytest.mark.slow
def test_train_script(tmp_path: Path) -> None:
    """The text recogniser is as accurate as the page says, and has the tensors of the shipped checkpoint."""
    printed = run_python(EXAMPLES / "crnn/train.py", tmp_path / "crnn.pt")
    accuracy = re.search(r"accuracy (\d\.\d+)", printed)
    assert accuracy is not None
    assert float(accuracy[1]) > 0.9
    found = jaxlstm.read_checkpoint(tmp_path / "crnn.pt")
    assert {n: t.shape for n, t in found.items()} == {
        n: t.shape for n, t in jaxlstm.read_checkpoint(EXAMPLES / "crnn/crnn.pt").items()
    }
