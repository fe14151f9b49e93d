"""The files of written source: their content, how they fill the model, and the verdict of the command."""

import dataclasses
import json
import re
import runpy
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from torch import Tensor, nn

import jaxlstm
from jaxlstm.check import Item, Report
from jaxlstm.cli.convert import _summary
from jaxlstm_converters.porting_warning import PortingWarning
from jaxlstm_converters.source._write_source import SourceFiles
from jaxlstm_converters.source.proof import Proof, load_written, make_written, prove
from testing.command import jaxlstm_command
from testing.image_reader import Block, Reader
from testing.modules import module_of
from testing.processes import run_python
from testing.written import altered


@pytest.fixture(scope="module")
def model() -> Reader:
    torch.manual_seed(0)
    model = Reader()
    for block in model.blocks:
        nn.init.normal_(block.norm.running_mean)  # type: ignore[arg-type, union-attr]
    return model.eval()


@pytest.fixture(scope="module")
def folder(model: Reader, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``reader.pt2``, ``reader.pt``, the written files, and a smaller ``blocks.pt2``."""
    folder = tmp_path_factory.mktemp("source")
    jaxlstm.from_module(model, (torch.randn(2, 1, 6, 8),)).save(folder / "reader.pt2")
    torch.save(model.state_dict(), folder / "reader.pt")
    blocks = nn.Sequential(Block(1), Block(4)).eval()
    jaxlstm.from_module(blocks, (torch.randn(2, 1, 6, 8),)).save(folder / "blocks.pt2")
    jaxlstm.write_source(folder / "reader.pt2", folder / "reader.py")
    return folder


@pytest.fixture(scope="module")
def files(folder: Path) -> SourceFiles:
    return SourceFiles.of(jaxlstm.load_program(folder / "reader.pt2"), folder / "reader.py")


OTHER_PROCESS = """
import sys
from jaxlstm import load_program
from jaxlstm_converters.source.files import SourceFiles
SourceFiles.of(load_program(sys.argv[1]), sys.argv[2]).write(overwrite=False)
"""


def test_files(folder: Path, model: Reader, tmp_path: Path) -> None:
    """A live module gives the same two files as its .pt2 file, in this process and in another."""
    program = jaxlstm.from_module(model, (torch.randn(2, 1, 6, 8),))
    assert jaxlstm.write_source(program, tmp_path / "reader.py").model == "Reader"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["reader.py", "reader.safetensors"]
    for name in ("reader.py", "reader.safetensors"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    run_python("-c", OTHER_PROCESS, folder / "reader.pt2", tmp_path / "other.py", PYTHONHASHSEED="7")
    assert (tmp_path / "other.py").read_bytes() == (folder / "reader.py").read_bytes()
    for arguments in (["check", "--select=E,F,I,B,W,UP,SIM"], ["format", "--check"]):
        settings = ["--isolated", "--line-length=100", "-q"]
        if arguments[0] == "check":  # In this repository, it would be first-party.
            settings += ["--config", 'lint.isort.known-third-party = ["jaxlstm"]']
        command = [sys.executable, "-m", "ruff", *arguments, *settings]
        subprocess.run([*command, folder / "reader.py"], check=True)


@pytest.mark.parametrize("source", ["reader.safetensors", "reader.pt2", "reader.pt", "module"])
def test_weights(folder: Path, files: SourceFiles, model: Reader, source: str) -> None:
    """Each source fills the model without names and warnings, and the weights go back to torch."""
    written: Any = make_written(files)
    written.eval()
    # A state dict has no buffers that are not persistent.
    whole = source in ("reader.safetensors", "reader.pt2")
    # A state dict records no epsilon.
    warned = pytest.warns(PortingWarning, match="epsilon") if source == "reader.pt" else nullcontext()
    with warned:
        jaxlstm.load_state_dict(written, model if source == "module" else folder / source, strict=whole)
    back = jaxlstm.state_dict(written)
    for name, tensor in model.state_dict().items():
        if not name.endswith("num_batches_tracked") and name != "again.weight":
            np.testing.assert_array_equal(back[name], tensor.numpy(), strict=True)
    if whole:
        x = np.random.default_rng(0).normal(size=(3, 1, 5, 7)).astype(np.float32)
        expected = model(torch.from_numpy(x)).detach().numpy()
        np.testing.assert_allclose(jax.jit(lambda m, x: m(x))(written, x), expected, rtol=1e-4, atol=1e-5)


def test_existing_files(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both files are written or none; equal values in float64 need no proof."""
    monkeypatch.setattr("jaxlstm_converters.source.proof.prove", None)
    (tmp_path / "reader.safetensors").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"reader\.safetensors exists; choose another path"):
        jaxlstm.write_source(folder / "reader.pt2", tmp_path / "reader.py")
    assert [path.name for path in tmp_path.iterdir()] == ["reader.safetensors"]
    files = jaxlstm.write_source(folder / "reader.pt2", tmp_path / "reader.py", overwrite=True)
    assert len(repr(files)) < 400 + len(repr(files.remarks))
    assert (tmp_path / "reader.safetensors").read_bytes() != b"mine"
    (tmp_path / "folder.py").mkdir()
    with pytest.raises(FileExistsError, match="is a directory"):
        jaxlstm.write_source(folder / "reader.pt2", tmp_path / "folder.py", overwrite=True)


@pytest.mark.parametrize(
    ("name", "better"),
    [
        *(("reader", "reader"), ("reader.txt", "reader"), ("my-reader.py", "my_reader")),
        *(("class.py", "class_"), ("1.py", "value_1")),
    ],
)
def test_paths(folder: Path, tmp_path: Path, name: str, better: str) -> None:
    with pytest.raises(ValueError, match=rf"a file that Python can import, such as {better}\.py"):
        jaxlstm.write_source(folder / "reader.pt2", tmp_path / name)
    with pytest.raises(TypeError, match="path must be a str"):
        jaxlstm.write_source(folder / "reader.pt2", 7)  # type: ignore[arg-type]


@pytest.mark.slow
def test_command(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The three lines, and the test that repeats the proof."""
    shutil.copy(folder / "reader.pt2", tmp_path)
    (tmp_path / "src").mkdir()
    output = tmp_path / "src" / "reader.py"
    done = jaxlstm_command("convert", tmp_path / "reader.pt2", "-o", output, "--test", "--comments")
    assert done.status == 0, done.out + done.err
    source, weights, test, verdict = done.out.splitlines()
    count = len(output.read_text().splitlines())
    assert source.startswith("reader.py          Reader, ")
    assert source.endswith(f": {count} lines; every operator in Flax or jax.numpy")
    assert weights.startswith("reader.safetensors ")
    assert weights.endswith(" tensors, torch's names")
    assert test == "test_reader.py     repeats the proof with pytest"
    compared = "equal to the program in float64 and float32, values and gradients"
    assert re.fullmatch(rf"HOLDS {{14}}{compared}, at [3-9] sizes", verdict)
    assert "# x = images - self.mean" in output.read_text()
    monkeypatch.syspath_prepend(output.parent)
    monkeypatch.delitem(sys.modules, "reader", raising=False)
    tests = runpy.run_path(str(output.with_name("test_reader.py")))
    tests["test_program"]()
    tests["test_torch"]()
    monkeypatch.delitem(sys.modules, "reader")
    assert jaxlstm_command("convert", tmp_path / "reader.pt2", "-o", output).status == 2


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("epsilon=0.001", "epsilon=0.01", "epsilon=0.01, but the torch layer's eps is 0.001"),
        ("nnx.relu(", "nnx.elu(", "  first differs "),
        ("(self, x):\n", "(self, x):\n        assert len(x) == 3\n", "  sizes 3 -> 1"),
        ("from flax import", "import no_such_module\nfrom flax import", "  the model cannot be made: Mod"),
    ],
)
def test_a_fault_does_not_hold(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, line: str
) -> None:
    altered(monkeypatch, old, new)
    done = jaxlstm_command("convert", folder / "blocks.pt2", "-o", tmp_path / "blocks.py", status=1)
    assert "\nDOES NOT HOLD\n" in done.out
    assert "HOLDS" not in done.out
    assert line in done.out


def test_json(folder: Path, tmp_path: Path) -> None:
    done = jaxlstm_command("convert", folder / "blocks.pt2", "-o", tmp_path / "blocks.py", "--json")
    report = json.loads(done.out)
    assert report["holds"]
    assert report["sizes"] >= 3
    assert report["classes"] == ["Block", "Sequential"]
    assert report["report"]["ok"]


def test_remarks(files: SourceFiles) -> None:
    """Remarks follow the source; the verdict lists the comparisons and the number of sizes."""
    untested = [Item("a", None, id="float64"), Item("b", None, id="untested"), Item("c", True)]
    proof = Proof(Report("a", tuple(untested), (), (), {}, {}), "", 1, ((), {}))
    lines = [*_summary(dataclasses.replace(files, remarks=("one", "two")), {"": proof}, [])]
    assert lines[0].endswith(" lines; 2 remarks")
    assert lines[1:3] == ["  one", "  two"]
    assert lines[-1].endswith(" equal to the program in float32, values, at 1 size")


@pytest.mark.parametrize(
    ("checkpoint", "output", "options", "message"),
    [
        ("reader.pt", "reader.py", (), "reader.pt. To make one in Python: jaxlstm.from_module(model"),
        ("reader.pt2", "reader.py", ("--prefix", "rnn."), "source is written from a .pt2 program"),
        ("reader.pt2", "reader.py", ("--format", "torch"), "--format cannot be used with a .pt2 program"),
        ("reader.pt2", "a.npz", ("--comments",), "-o must end in .py"),
        ("reader.pt2", "a.npz", ("--test",), "-o must end in .py"),
        ("missing.pt2", "reader.py", (), "no such file"),
    ],
)
def test_bad_input(
    folder: Path, tmp_path: Path, checkpoint: str, output: str, options: tuple[str, ...], message: str
) -> None:
    done = jaxlstm_command("convert", folder / checkpoint, "-o", tmp_path / output, *options)
    assert done.status == 2
    assert message in done.err
    assert not list(tmp_path.iterdir())


def test_a_written_model_trains(files: SourceFiles) -> None:
    """It is an ordinary NNX model: gradients of its parameters only, and dropout and norms by mode."""
    written: Any = load_written(files)
    grads = nnx.grad(lambda m, x: m(x).sum())(written, np.ones((3, 1, 5, 7), np.float32))
    leaves = jax.tree.leaves(grads)
    assert (
        len(leaves) == len([name for name in Reader().state_dict() if "weight" in name or "bias" in name]) - 1
    )
    assert all(np.isfinite(leaf).all() for leaf in leaves)


@pytest.mark.quick(*(f"<lambda>-given{n}-others{n}" for n in (0, 1, 3, 5)))
@pytest.mark.filterwarnings("ignore:from_module. axis 0 of x has size 1")
@pytest.mark.parametrize(
    ("forward", "given", "others"),
    [
        # Another batch would broadcast, and a loop of three steps would leave the fourth out.
        (lambda self, x: x / x.mean().reshape(x.shape[0], 1), ((1, 4),), ((2, 4),)),
        (lambda self, x: sum(x[:, t] * (t + 2) for t in range(x.shape[1])), ((2, 3),), ((2, 4),)),
        # The layer has as many features as the export had steps, and checks another axis.
        (lambda self, x: sum(self.part(x.int())[:, t] * t for t in range(x.shape[1])), ((2, 6),), ((2, 7),)),
        (lambda self, x: sum(self.conv(x)[:, t] * t for t in range(x.shape[1])), ((6, 5),), ((6, 6),)),
        *((lambda self, x, n: x[:, :n] / n, ((2, 5), n), ((2, 5), 4)) for n in (1, 3)),
    ],
)
def test_what_the_export_fixed(
    tmp_path: Path, forward: Any, given: tuple[Any, ...], others: tuple[Any, ...]
) -> None:
    """With other sizes or constants the results would be wrong."""

    def arguments(shapes: tuple[Any, ...], kind: Any = np.float32) -> list[Any]:
        return [kind(np.ones(shape)) if isinstance(shape, tuple) else shape for shape in shapes]

    model = module_of(forward, part=nn.Embedding(9, 6), conv=nn.Conv1d(6, 4, 3, padding=1))
    program = jaxlstm.from_module(model, tuple(arguments(given, torch.Tensor)))
    run: Any = load_written(jaxlstm.write_source(program, tmp_path / "model.py"))
    expected = program(program.params, *arguments(given))
    np.testing.assert_allclose(run(*arguments(given)), expected)
    with pytest.raises(AssertionError, match="fixed by the export"):
        run(*arguments(others))


@pytest.mark.filterwarnings("ignore:.*fixed parts of the model")
def test_the_proof_names_a_source_that_runs_outside_of_jit_only(tmp_path: Path) -> None:
    def forward(self: Any, x: Tensor, n: Tensor) -> Tensor:
        y = self.linear(x)[:, : n.max()]
        return torch.stack([y[:, step] * step for step in range(y.shape[1])], 1)

    module = module_of(forward, linear=nn.Linear(4, 4)).eval()
    program = jaxlstm.from_module(module, (torch.randn(3, 5, 4), torch.tensor([2, 4, 3])))
    files = SourceFiles.of(program, tmp_path / "written.py")
    files.write(overwrite=False)
    proof = prove(files, program)
    assert proof.holds, proof.lines
    assert proof.verdict.endswith("outside of jax.jit only")
