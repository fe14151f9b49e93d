"""The demo in JAX agrees with PyTorch, and two processes train as one."""

import copy
import importlib
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from jaxlstm import load_program
from testing.problems import rms
from testing.processes import python_environment, run_python

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def examples() -> Iterator[SimpleNamespace]:
    """Yield the scripts as modules. They import one another by name, so their folder is on the path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        names = ("punctuation", "tag", "export_demo")
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})


@pytest.fixture(scope="module")
def restorer(examples: SimpleNamespace) -> torch.nn.Module:
    model = examples.export_demo.Restorer()
    checkpoint = torch.load(examples.export_demo.CHECKPOINT, weights_only=True)
    model.load_state_dict(checkpoint["model_state_dict"], strict=True)
    return model.eval()


def test_program_is_the_export_of_the_checkpoint(examples: SimpleNamespace) -> None:
    program, exported = load_program(examples.tag.PROGRAM), examples.export_demo.export()
    for name, parameter in exported.params.items():
        np.testing.assert_array_equal(program.params[name], parameter, strict=True)
    assert [node.op for node in program.graph.nodes] == [node.op for node in exported.graph.nodes]
    assert program.inputs[0].type.shape == tuple(program.graph.ranges)  # type: ignore[union-attr]


def test_whole_model_equals_torch(examples: SimpleNamespace, restorer: torch.nn.Module) -> None:
    """Compare all logits of the held-out chapter (11,000 characters) and the restored text."""
    original = " ".join(examples.punctuation.read_paragraphs(range(12, 13)))
    text = examples.punctuation.strip(original)
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


LOSS = re.compile(r"step \d+: loss ([\d.]+)")


def start(*arguments: str, devices: int = 2) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, EXAMPLES / "several_hosts.py", *arguments],
        env=python_environment(
            devices,
            JAX_PLATFORMS="cpu",
            # Only one of several processes would write the cache of conftest.py.
            JAX_ENABLE_COMPILATION_CACHE="false",
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_two(*arguments: str) -> list[subprocess.Popen[str]]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    # A busy machine delays heartbeats.
    among = ("--coordinator", address, "--processes", "2", "--timeout", "600", *arguments)
    return [start(*among, "--process", str(number)) for number in range(2)]


def losses(output: str) -> list[float]:
    return [float(value) for value in LOSS.findall(output)]


@pytest.mark.slow
@pytest.mark.parametrize(("model", "hidden"), [("lstm", "1"), ("lstm", "4"), ("demo", "1")])
def test_two_processes_train_as_one(model: str, hidden: str, tmp_path: Path) -> None:
    """Each process has two devices. With hidden=4 the all-gather of every step crosses the processes."""

    def arguments(run: str) -> list[str]:
        files = ("--save", f"{tmp_path}/{run}.npz", "--gradients", f"{tmp_path}/{run} gradients.npz")
        return ["--model", model, "--steps", "4", *files]

    single = start(*arguments("one"), devices=1)
    both = start_two(*arguments("two"), "--hidden", hidden)
    printed = [child.communicate(timeout=1200) for child in (single, *both)]
    for child, (_, errors) in zip((single, *both), printed, strict=True):
        assert child.returncode == 0, errors[-3000:]
    expected = losses(printed[0][0])
    assert len(expected) == 4
    assert expected[-1] < expected[0] / (2 if model == "lstm" else 1.1)
    assert losses(printed[1][0]) == pytest.approx(expected, rel=1e-5)
    # Only process 0 prints.
    assert losses(printed[2][0]) == []
    for kind in ("", " gradients"):
        with np.load(tmp_path / f"one{kind}.npz") as one, np.load(tmp_path / f"two{kind}.npz") as two:
            assert set(one) == set(two)
            for name, array in one.items():
                atol = 1e-5 * np.abs(array).max() if kind else 1e-5
                np.testing.assert_allclose(two[name], array, rtol=0, atol=atol, err_msg=name + kind)
