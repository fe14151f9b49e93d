"""The snippets of the pages run in order, and the quoted messages and help texts are the real ones."""

from __future__ import annotations

import json
import re
import runpy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flax import nnx

import jaxlstm
from jaxlstm.check.reference.faults import weights
from testing.pages import ROOT, blocks, run_page
from testing.wheels import fetch_pinned

# Pages whose snippets another test runs or compares with a script.
ELSEWHERE = {
    "crnn.md": "tests/examples/test_pages.py",
    "porting.md": "tests/converters/flax/test_docs.py",
    "programs.md": "tests/programs/test_docs.py",
    "real_models.md": "tests/examples/test_pages.py",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the examples and the files that the pages mention."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    two = {
        **torch.nn.LSTM(3, 4).state_dict(prefix="encoder."),
        **torch.nn.LSTM(4, 3).state_dict(prefix="decoder."),
    }
    torch.save(two, "two.pt")
    torch.save(torch.nn.GRU(3, 4).state_dict(prefix="rnn."), "gru.pt")
    Path("half.pt").write_bytes(Path("two.pt").read_bytes()[:2000])
    Path("lfs.pt").write_text("version https://git-lfs.github.com/spec/v1\n")
    return tmp_path


# For each message on docs/faq.md, in its order, an expression that causes it.
CAUSES = [
    "jaxlstm.load('examples/demo.pt')",
    "jaxlstm.load('gru.pt')",
    "jaxlstm.load('lfs.pt')",
    "jaxlstm.load('half.pt')",
    "jaxlstm.lstm(params, jnp.ones((3, 9, 20)), config=config)",
    "jaxlstm.lstm(params, x.astype(jnp.bfloat16), config=config)",
    "jaxlstm.lstm(params, np.ones((3, 9, 16)), config=config)",
    "jaxlstm.load_state_dict(Tagger(nnx.Rngs(0)), 'examples/demo.pt')",
    "jaxlstm.load_state_dict(Half(), torch.nn.LSTM(16, 24).state_dict())",
    "jax.jit(jaxlstm.inference.compile(params, config, max_length=16, max_batch=4))(x)",
    "jaxlstm.inference.compile(params, config, max_length=16, max_batch=2).stream()",
    "jaxlstm.from_module(Fourier(), (torch.ones(5, 3),))",
]


class Fourier(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.fft.fft2(x)


class Half(jaxlstm.nnx.LSTM):
    def __init__(self) -> None:
        super().__init__(16, 24, param_dtype="bfloat16", rngs=nnx.Rngs(0))


def fits(quote: str, message: str) -> bool:
    """Return True if a message equals a quote, in which "..." stands for anything."""
    pattern = ".*".join(re.escape(part) for part in quote.strip().split("..."))
    return re.fullmatch(pattern, message.strip(), re.DOTALL) is not None


def message_of(cause: str, names: dict[str, Any]) -> str:
    """Return the message of the error or PortingWarning that an expression causes."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", jaxlstm.PortingWarning)
        with pytest.raises((Exception, jaxlstm.PortingWarning)) as caught:
            eval(cause, names)
    return str(caught.value)


def test_the_snippets_of_every_page_are_run() -> None:
    pages = {page.name for page in (ROOT / "docs").glob("*.md") if blocks(page.name, "python")}
    tests = "".join((ROOT / "tests" / file).read_text() for file in ("test_docs.py", "test_snippets.py"))
    assert pages == ELSEWHERE.keys() | set(re.findall(r'run_page\("([a-z_]+\.md)"', tests))
    for page, test in ELSEWHERE.items():
        assert page in (ROOT / test).read_text(), test


def test_error_messages(folder: Path) -> None:
    quotes = blocks("faq.md", "text")
    assert len(quotes) == len(CAUSES)
    names = run_page("faq.md")
    names |= {"Fourier": Fourier, "Half": Half, "torch": torch}
    messages = [message_of(cause, names) for cause in CAUSES]
    pairs = zip(quotes, messages, strict=True)
    assert [pair for pair in pairs if not fits(*pair)] == []


def test_layer(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_page("layer.md")
    (quoted,) = re.findall(r"print\(.*?\)\s+# (\(.*\))", blocks("layer.md", "python")[0])
    assert quoted in capsys.readouterr().out


def test_front_page(folder: Path) -> None:
    assert run_page("index.md")["outputs"].shape == (3, 9, 48)


def test_equations_are_rendered() -> None:
    """MyST takes ``$`` for text unless its extension is on."""
    notebook = json.loads((ROOT / "examples/inner_workings.ipynb").read_text())
    prose = "".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    configuration = runpy.run_path(str(ROOT / "docs/conf.py"))
    assert "$$" in prose
    assert "dollarmath" in configuration["myst_enable_extensions"]


@pytest.mark.slow
def test_recipes(folder: Path) -> None:
    lstm = torch.nn.LSTM(16, 24, 2, bidirectional=True, batch_first=True)
    params, config = jaxlstm.load("examples/demo.pt", batch_first=True, dropout=0.0)
    lstm.load_state_dict({name: torch.tensor(a) for name, a in jaxlstm.to_torch(params, config).items()})
    inputs = torch.randn(2, 5, 16)
    np.savez("recorded.npz", inputs=inputs, outputs=lstm(inputs)[0].detach())
    assert run_page("recipes.md")["batch_first"] is True


def test_comparison(capsys: pytest.CaptureFixture[str]) -> None:
    """The snippet works, and the table lists the gate orders that the diagnosis can name."""
    run_page("comparison.md")
    assert all(float(difference) < 1e-6 for difference in capsys.readouterr().out.split())
    text = (ROOT / "docs/comparison.md").read_text(encoding="utf-8")
    orders = {(order, library) for library, order in re.findall(r"^\| (\w+).* \| `([ifgo]{4})`", text, re.M)}
    pattern = r"the gates are read in the order (.*) \(as in (\w+)\)"
    causes = [match for fault in weights.FAULTS if (match := re.fullmatch(pattern, fault.cause))]
    named = {(match[1].replace(", ", ""), match[2].replace("haiku", "Haiku")) for match in causes}
    assert {row for row in orders if row[0] != "ifgo"} == named


@pytest.mark.slow
@pytest.mark.network
def test_what_holds_means(folder: Path) -> None:
    """Rounding errors grow with the sequence, alike in torch, in jaxlstm and from changed inputs."""
    (folder / "pytorch_model.bin").symlink_to(fetch_pinned("whisperx", "whisperx/assets/pytorch_model.bin"))
    errors = run_page("what_holds_means.md")["errors"]
    assert all(1e-6 < error < 1e-3 for error in errors[10].values())
    assert all(error > 0.1 for error in errors[100].values())
    for error in errors.values():
        assert error["jaxlstm"] < 10 * max(error["torch"], error["moved"])
