"""Several methods of a module: saved in one file, and written as one class."""

import copy
import importlib
import re
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import Tensor, nn
from torch.export.pt2_archive._package import load_pt2

import jaxlstm
from testing.command import jaxlstm_command
from testing.written import written_program

START, END = 1, 2


class Translator(nn.Module):
    """An encoder and a decoder with attention; ``forward`` calls both."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 6, padding_idx=0), nn.Linear(12, 9)
        self.encoder, self.cell = nn.LSTM(6, 6, batch_first=True), nn.LSTMCell(6, 6)
        self.query = nn.Linear(6, 6)

    def encode(self, words: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        memory, (h, c) = self.encoder(self.embed(words) * torch.linspace(0, 1, 6) + torch.tensor([3.0] * 6))
        return memory, (h[0], c[0])

    def decode_step(self, token: Tensor, state: tuple[Tensor, Tensor], memory: Tensor) -> Any:
        h, c = self.cell(self.embed(token) * self.scale(), state)
        weights = torch.einsum("bth,bh->bt", memory, self.query(h)).softmax(1)
        context = (weights[..., None] * memory).sum(1)
        return self.head(torch.cat([h, context], 1)), (h, c)

    def scale(self) -> Tensor:
        return torch.tensor([[float(row + column) for column in range(6)] for row in range(4)]).mean(0)

    def forward(self, words: Tensor, texts: Tensor) -> Tensor:
        memory, state = self.encode(words)
        scores = []
        for step in range(2):
            y, state = self.decode_step(texts[:, step], state, memory)
            scores.append(y)
        return torch.stack(scores, 1)

    def greedy(self, words: Tensor) -> Tensor:
        memory, state = self.encode(words)
        token, texts = torch.full_like(words[:, 0], START), []
        for _ in range(8):
            scores, state = self.decode_step(token, state, memory)
            token = torch.where(token == END, END, scores.argmax(-1))
            texts.append(token)
        return torch.stack(texts, 1)


def greedy(encode: Any, decode_step: Any, words: jax.Array) -> jax.Array:
    def step(carry: Any) -> Any:
        n, token, state, texts = carry
        scores, state = decode_step(token, state, memory)
        token = jnp.where(token == END, END, scores.argmax(-1))
        return n + 1, token, state, texts.at[:, n].set(token)

    memory, state = encode(words)
    token, texts = jnp.full(len(words), START), jnp.full((len(words), 8), END)
    start = 0, token, state, texts
    return jax.lax.while_loop(lambda carry: (carry[0] < 8) & (carry[1] != END).any(), step, start)[-1]


def test_one_file_and_one_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both decode as torch does, also from new parameters; torch opens the file."""
    translator, words = Translator().eval(), torch.randint(3, 9, (2, 5))
    memory, state = translator.encode(words)
    examples = {"forward": (words, words), "encode": (words,), "decode_step": (words[:, 0], state, memory)}
    programs = {name: jaxlstm.from_module(translator, args, method=name) for name, args in examples.items()}
    words = torch.randint(3, 9, (3, 7))
    expected, host = translator.greedy(words), words.numpy()
    path, source = tmp_path / "translator.pt2", tmp_path / "translator_of_file.py"
    jaxlstm.save_programs(path, programs, programs["encode"].params)
    loaded = jaxlstm.load_programs(path)
    params = jaxlstm.load_program(path, method="encode").params
    encode, step = (partial(loaded[name], params) for name in ("encode", "decode_step"))
    np.testing.assert_array_equal(jax.jit(lambda words: greedy(encode, step, words))(host), expected)
    memory, _ = load_pt2(path).exported_programs["encode"].module()(words)
    np.testing.assert_allclose(loaded["encode"](params, host)[0], memory.detach(), atol=1e-6)
    entries = [name for name in zipfile.ZipFile(path).namelist() if "/weight_" in name]
    assert len(entries) == len(params)

    assert jaxlstm.write_source(path, source).remarks == ()
    text = source.read_text()
    assert sorted(re.findall(r"def (\w+)", text)) == [
        "__call__",
        "__init__",
        "decode_step",
        "encode",
        "scale",
    ]
    assert "def decode_step(self, token, state, memory):" in text
    monkeypatch.syspath_prepend(tmp_path)
    model = importlib.import_module(source.stem).Translator(rngs=nnx.Rngs(0))
    model.eval()
    state_dict = translator.state_dict()
    written = nnx.jit(lambda model, words: greedy(model.encode, model.decode_step, words))
    for weights in (source.with_suffix(".safetensors"), state_dict, path):
        jaxlstm.load_state_dict(model, weights, strict=weights is not state_dict)  # without constants
        np.testing.assert_array_equal(written(model, host), expected)


class Rows(nn.Module):
    """``forward`` calls ``part`` with any number of rows, and with four."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def part(self, x: Tensor) -> Tensor:
        return self.linear(x).tanh()

    def forward(self, rows: Tensor) -> Tensor:
        return self.part(rows) + self.part(rows.new_ones(4, 4)).sum()


@pytest.fixture(scope="module")
def module() -> Rows:
    return Rows().eval()


@pytest.fixture(scope="module")
def programs(module: Rows) -> dict[str, jaxlstm.Program]:
    return {
        name: jaxlstm.from_module(module, (torch.randn(5, 4),), method=name) for name in ("forward", "part")
    }


def test_commands(module: Rows, programs: Any, tmp_path: Path) -> None:
    """Each command takes one of the methods; files and artifacts without programs have none."""
    path, x = tmp_path / "a.pt2", torch.randn(3, 4)
    jaxlstm.save_programs(path, programs)
    np.save(tmp_path / "x.npy", x.numpy())
    outputs = {name: ("-o", tmp_path / f"a.{name}") for name in ("npy", "stablehlo", "py")}
    run = ("run", path, "--input", tmp_path / "x.npy", *outputs["npy"])
    assert "2 programs (forward, part): pass" in jaxlstm_command(*run, status=2).err
    jaxlstm_command(*run, "--method", "part", status=0)
    np.testing.assert_allclose(np.load(tmp_path / "a.npy"), module.part(x).detach(), atol=1e-6)
    for command in ("export", path, *outputs["stablehlo"]), ("convert", path, *outputs["py"]):
        jaxlstm_command(*command, "--method", "part", status=0)
    report = jaxlstm_command("check", path, "--json", "--method", "part", status=0).out
    assert f"jaxlstm check {path} --method part --backend " in report  # the command that repeats the check
    assert "def part(self, x):" in (tmp_path / "a.py").read_text()
    both = jaxlstm_command("convert", path, "-o", tmp_path / "both.py", status=0).out
    assert re.findall(r"HOLDS +(\w+):", both) == ["forward", "part"]
    lstm = Path(__file__).parents[3] / "examples" / "demo.pt"
    for command in (("export", lstm, *outputs["stablehlo"]), ("run", lstm, *run[2:])):
        refused = jaxlstm_command(*command, "--method", "encode", status=2)
        assert "method selects a program of a .pt2 file" in refused.err


@pytest.mark.parametrize(("smallest", "methods"), [(3, ["part", "part_2"]), (1, ["part"])])
def test_conditions(module: Rows, programs: Any, smallest: int, methods: list[str]) -> None:
    """A method has its conditions for each call that meets them; other calls need another method."""
    x = torch.randn(5, 4)
    free = ({0: torch.export.Dim("rows", min=smallest)},)
    part = jaxlstm.from_module(module.part, (x,), dynamic_shapes=free)
    written = written_program({**programs, "part": part})
    assert re.findall(r"def (part\w*)", written.text) == methods
    assert len(re.findall(r"assert (?:x|rows)\.", written.text)) == 2
    for rows in (5, 2):
        expected = module(x[:rows]).detach()
        np.testing.assert_allclose(written.model(x[:rows].numpy()), expected, atol=1e-6)


def test_what_is_refused(module: Rows, programs: Any, tmp_path: Path) -> None:
    changed = copy.deepcopy(module)
    changed.linear.bias.data += 1
    other = jaxlstm.from_module(changed.part, (torch.ones(2, 4),))
    with pytest.raises(ValueError, match=r"methods of one module, but .* of 'other' has other values"):
        jaxlstm.write_source({**programs, "other": other}, tmp_path / "a.py")
    with pytest.raises(ValueError, match=r"names of methods, got \['a b'\]"):
        jaxlstm.save_programs(tmp_path / "a.pt2", {"a b": other})
    jaxlstm.save_programs(tmp_path / "a.pt2", programs)
    with pytest.raises(jaxlstm.CheckpointError, match=r"2 programs \(forward, part\): pass"):
        jaxlstm.load_program(tmp_path / "a.pt2")
    with pytest.raises(ValueError, match=r"\(forward, part\), got 'greedy'"):
        jaxlstm.load_program(tmp_path / "a.pt2", method="greedy")
    arguments = ("convert", tmp_path / "a.pt2", "-o", tmp_path / "a.py", "--test")
    assert "--test repeats" in jaxlstm_command(*arguments, status=2).err
    assert "program part\ninput x: float32" in jaxlstm_command("inspect", tmp_path / "a.pt2").out
