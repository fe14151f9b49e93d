"""The code of the README runs; links lead somewhere; pictures are described."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory with the examples."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)


def test_readme_runs(
    folder: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    torch_model = importlib.import_module("train_demo").Restorer()
    saved = torch.load("examples/demo.pt")["model_state_dict"]
    torch_model.load_state_dict(saved)
    blocks = re.findall(r"```python\n(.*?)```", README[README.index("</table>") :], re.DOTALL)
    assert len(blocks) == 4
    names: dict[str, Any] = {"torch_model": torch_model}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert "HOLDS" in capsys.readouterr().out
    assert names["state_dict"].keys() == saved.keys()
    for ours, theirs in zip(
        names["model"](names["characters"]), (names["capital"], names["mark"]), strict=True
    ):
        assert abs(ours - theirs).max() < 1e-5


def test_side_by_side_lines_agree(tmp_path: Path) -> None:
    import jax.numpy as jnp
    import torch

    path = tmp_path / "lstm.pt"
    torch.save(torch.nn.LSTM(150, 150, 2).state_dict(), path)
    table = re.findall(r"```python\n(.*?)```", README[: README.index("</table>")], re.DOTALL)
    theirs, ours = table
    x, state = torch.randn(2, 3, 150), torch.randn(2, 2, 150)
    in_torch: dict[str, object] = {"path": path, "torch": torch, "inputs": x, "h_0": state, "c_0": state}
    exec(theirs, in_torch)
    in_jax: dict[str, object] = {"path": path, "inputs": jnp.asarray(x), "h_0": jnp.asarray(state)}
    in_jax["c_0"] = in_jax["h_0"]
    exec("import jaxlstm\nfrom flax import nnx\n" + ours, in_jax)
    expected = in_torch["outputs"].detach().numpy()  # type: ignore[attr-defined]
    assert abs(in_jax["outputs"] - expected).max() < 1e-6  # type: ignore[operator]


def test_links_lead_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("[be]*s/**/*.md"), *ROOT.glob("docs/*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_pictures_are_described_and_self_contained() -> None:
    """Well-formed SVG without scripts or external resources, and a description in words."""
    shown = set()
    for page in (ROOT / "docs").glob("*.md"):
        for words, target in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", page.read_text()):
            picture = page.parent / target
            shown.add(picture)
            assert len(words.split()) > 20, f"{page.name}: {target} has no description"
            source = picture.read_text()
            assert len(source) < 10_000, target
            assert not re.search(r"<!(?!--)|<\?", source), f"{target}: doctype or instruction"
            for element in ElementTree.fromstring(source).iter():
                assert element.tag.startswith("{http://www.w3.org/2000/svg}"), (target, element.tag)
                name = element.tag.rpartition("}")[2]
                assert name not in ("script", "foreignObject", "image", "a"), (target, name)
                for key, value in [*element.items(), ("text", element.text or "")]:
                    key = key.rpartition("}")[2]
                    assert not key.startswith("on"), (target, key)
                    assert key != "href" or value.startswith("#"), (target, value)
                    assert not re.search(r"url\((?!#)|@import|://", value), (target, value)
    assert shown == set((ROOT / "docs/pictures").iterdir())


def test_commands_are_those_of_the_parser() -> None:
    from jaxlstm.cli import COMMANDS

    quoted = set(re.findall(r"^jaxlstm (\w+)", README, re.MULTILINE))
    assert quoted == {command.__name__.rpartition(".")[2] for command in COMMANDS}


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 130
