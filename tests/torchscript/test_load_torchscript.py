"""Archives of every kind as modules: TorchScript's values, free sizes, gradients, clean layers."""

import io
import re
import zipfile
from pathlib import Path
from typing import Any

import jax
import pytest
import torch
from torch import Tensor, nn

import jaxlstm
from testing.command import jaxlstm_command
from testing.gradients import assert_close, require_equal
from testing.written import written_program

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.* is deprecated", "ignore:Converting a tensor")


class Tagger(nn.Module):
    """Layers of torch, sizes in arithmetic, and a second method."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 4)
        self.lstm = nn.LSTM(4, 5, 2, bidirectional=True, batch_first=True)
        self.body = nn.Sequential(nn.Linear(10, 3), nn.ReLU(), nn.BatchNorm1d(3))
        self.conv = nn.Conv1d(3, 2, 3, padding=1)
        self.scale = 0.5

    def forward(self, x: Tensor) -> Tensor:
        h, _ = self.lstm(self.embedding(x))
        batch, length, _ = h.shape
        y = self.body(h.reshape(batch * length, -1)).reshape(batch, length, 3)
        return self.conv(y.transpose(1, 2)) * self.scale + torch.arange(length) * (length // 2)

    @torch.jit.export
    def embed(self, x: Tensor, scale: float = 2.0) -> Tensor:
        return self.embedding(x) * scale


X, OTHER = torch.arange(15).reshape(3, 5) % 11, torch.arange(28).reshape(4, 7) % 11
WAYS = {
    "script": torch.jit.script,
    "trace": lambda module: torch.jit.trace(module, X),
    "freeze": lambda module: torch.jit.freeze(torch.jit.script(module)),
    "optimize": lambda module: torch.jit.optimize_for_inference(torch.jit.script(module)),
}


@pytest.fixture(scope="module")
def tagger() -> nn.Module:
    torch.manual_seed(0)
    return Tagger().eval()


@pytest.mark.parametrize("way", WAYS)
def test_values_of_torch_at_other_sizes(tagger: nn.Module, way: str, tmp_path: Path) -> None:
    script = WAYS[way](tagger)
    script.save(str(tmp_path / "tagger.jit"))
    module = jaxlstm.load_torchscript(tmp_path / "tagger.jit")
    torch.testing.assert_close(module(X), tagger(X), rtol=0, atol=1e-6)
    program = jaxlstm.from_module(script, (X,))
    if way in ("script", "trace"):
        assert module.state_dict().keys() == program.params.keys() | program.buffers.keys()
        require_equal(program, tagger, OTHER, atol=2e-5)
    else:  # Their weights are constants.
        assert not program.params
        assert_close(jax.jit(program)(program.params, OTHER.numpy()), tagger(OTHER), 1e-5)


def test_layers_of_torch_and_clean_source(tagger: nn.Module) -> None:
    module = jaxlstm.load_torchscript(torch.jit.script(tagger))
    kinds = {name: type(part) for name, part in tagger.named_modules() if name}
    assert {name: type(part) for name, part in module.named_modules() if name} == kinds
    written = written_program(jaxlstm.from_module(module, (X,)))
    assert "jaxlstm.nnx.LSTM(" in written.text
    assert "jaxlstm.programs" not in written.text


def test_a_method_of_a_script(tagger: nn.Module) -> None:
    script: Any = torch.jit.script(tagger)
    module: Any = jaxlstm.load_torchscript(script)
    for program in (
        jaxlstm.from_module(script, (X,), method="embed"),
        jaxlstm.from_module(script.embed, (X,)),
        jaxlstm.from_module(module.embed, (X,)),
    ):
        assert_close(program(program.params, OTHER.numpy()), script.embed(OTHER), 1e-6)


def test_a_layer_with_other_code_is_interpreted(tmp_path: Path) -> None:
    """It has the name and constants of torch's class, and another method."""
    layer = nn.Linear(2, 3)
    torch.jit.script(nn.Sequential(layer)).save(str(tmp_path / "a.jit"))
    with zipfile.ZipFile(tmp_path / "a.jit") as source, zipfile.ZipFile(tmp_path / "b.jit", "w") as target:
        for name in source.namelist():
            raw = source.read(name)
            target.writestr(name, raw.replace(b"torch.linear(input, weight, bias)", b"torch.neg(input)"))
    x = torch.ones(4, 2)
    original, changed = (jaxlstm.load_torchscript(tmp_path / name) for name in ("a.jit", "b.jit"))
    assert type(original[0]) is nn.Linear  # type: ignore[index]
    assert torch.equal(original(x), layer(x))
    assert type(changed[0]).__mro__[1].__name__ == "ScriptedModule"  # type: ignore[index]
    assert torch.equal(changed(x), -x)


class Quotients(nn.Module):
    """Operators that torch changed."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        n = x.size(0)
        return x / 2, x / (x + 20), torch.full([n], 3), torch.full([2], n) * ((n - 8) / 3)


@pytest.mark.parametrize("version", [1, 3, 4, 10])
@pytest.mark.parametrize("way", [torch.jit.script, lambda module: torch.jit.trace(module, -X)])
def test_archives_of_old_versions(way: Any, version: int, tmp_path: Path) -> None:
    """They divide integers as torch 1.4 did, to integers. torch.jit.load gives the reference."""
    raw, path = io.BytesIO(), tmp_path / "old.jit"
    torch.jit.save(way(Quotients()), raw)
    with zipfile.ZipFile(raw) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            head = b"op_version_set = 1\n" * (name.endswith(".py") and version == 1)
            text = f"{version}\n" if name.endswith("version") else head + source.read(name)
            target.writestr(name, text)
    module, reference = jaxlstm.load_torchscript(path), torch.jit.load(path)
    program = jaxlstm.from_module(module, (-X,))
    for x in (-X, OTHER - 3):
        expected = reference(x)
        assert (expected[0].dtype == torch.int64) is (version < 4)
        torch.testing.assert_close(module(x), expected, rtol=0, atol=0)
        assert_close(program(program.params, x.numpy()), expected, 1e-6)


class Counter(nn.Module):
    """Its attributes change, and its results are structures."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.last = 0, torch.zeros(1)

    def forward(self, x: Tensor, flip: bool | None = None) -> tuple[dict[str, Tensor], list[int]]:
        if x.dim() != 2:
            raise ValueError(f"expected 2 axes, got {x.dim()}")
        self.calls += 1
        self.last = x[:1]
        return {"x": x if flip is None else x.flip(0), "last": self.last}, [self.calls, x.size(0)]


def test_state_and_structures() -> None:
    script = torch.jit.script(Counter())
    module: Any = jaxlstm.load_torchscript(script)
    x = torch.arange(6.0).reshape(3, 2)
    for flip in (None, True):
        torch.testing.assert_close(module(x, flip), script(x, flip), rtol=0, atol=0)
    assert module.calls == 2
    with pytest.raises(ValueError, match="expected 2 axes, got 1"):
        module(x[0])
    with pytest.raises(TypeError, match=r"flip must be Optional\[bool\], got int"):
        module(x, 1)
    with pytest.warns(UserWarning, match=r"forward changes self\.calls at \w+\.py:\d+: self\.calls = "):
        program = jaxlstm.from_module(torch.jit.script(Counter()), (x,))
    assert_close(program(program.params, x.numpy()), torch.jit.script(Counter())(x), 0)


@pytest.mark.filterwarnings("ignore:torch")
def test_archives_that_are_refused(tmp_path: Path) -> None:
    quantized = torch.ao.quantization.quantize_dynamic(
        nn.Sequential(nn.Linear(2, 2)), {nn.Linear}, torch.qint8
    )
    with pytest.raises(jaxlstm.CheckpointError, match="quantized models are not supported"):
        jaxlstm.load_torchscript(torch.jit.script(quantized))
    torch.save({"a": torch.ones(1)}, tmp_path / "a.pt")
    with pytest.raises(jaxlstm.CheckpointError, match=r"not an archive of torch\.jit\.save"):
        jaxlstm.load_torchscript(tmp_path / "a.pt")


def test_commands(tagger: nn.Module, tmp_path: Path) -> None:
    path = str(tmp_path / "tagger.jit")
    torch.jit.script(tagger).save(path)
    listing = jaxlstm_command("inspect", path, "--all").out
    assert "method forward(x: Tensor) -> Tensor" in listing
    assert "method embed(x: Tensor, scale: float = 2.0) -> Tensor" in listing
    for options, message in (
        (("--input", "y=int64[2,5]"), "--input must name the arguments .x. of the method"),
        (("--input", "x=foo[2,5]"), "--input must be NAME="),
        (("--submodule", "head"), "--submodule head: the archive has only the modules embedding, "),
    ):
        refused = jaxlstm_command("convert", path, *options, "-o", str(tmp_path / "a.py"), status=2)
        assert re.search(message, refused.err)


@pytest.mark.slow
def test_proofs(tagger: nn.Module, tmp_path: Path) -> None:
    path = str(tmp_path / "tagger.jit")
    torch.jit.script(tagger).save(path)
    program = jaxlstm.from_module(torch.jit.script(tagger), (X,))
    report = jaxlstm.check.verify_model(program, path, (X,))
    report.raise_if_failed()
    assert "Tagger (TorchScript, executed by torch)" in str(report)
    of_embed = ("--method", "embed", "--input", "x=int64[2,5]", "--input", "scale=2.0")
    written = jaxlstm_command("convert", path, *of_embed, "-o", str(tmp_path / "embed.py"))
    assert "HOLDS" in written.out
    assert "the module HOLDS" in jaxlstm_command("check", path, "--input", "x=int64[3,5]").out
