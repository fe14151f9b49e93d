"""The README's code runs, in order, as a reader would run it, and its links and tables hold."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def python_blocks() -> list[str]:
    """The fenced Python blocks outside the table that sets torch and jaxlstm side by side."""
    text = re.sub(r"<table>.*?</table>", "", README, flags=re.DOTALL)
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_the_blocks_run_and_print_what_they_say(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    blocks = python_blocks()
    assert len(blocks) == 3
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    printed = capsys.readouterr().out
    promised = re.findall(r"print\(.*?\)\s+# (\(.*\))", blocks[0])
    assert promised
    for line in promised:
        assert line in printed
    assert "HOLDS" in printed


def test_the_side_by_side_lines_run(tmp_path: Path) -> None:
    import jax.numpy as jnp
    import torch

    path = tmp_path / "lstm.pt"
    torch.save(torch.nn.LSTM(150, 150, 2).state_dict(), path)
    table = re.findall(r"```python\n(.*?)```", README[: README.index("</table>")], re.DOTALL)
    theirs, ours = table
    x, state = torch.randn(2, 3, 150), torch.randn(2, 2, 150)
    in_torch: dict[str, object] = {
        "path": path,
        "torch": torch,
        "inputs": x,
        "h_0": state,
        "c_0": state,
    }
    exec(theirs, in_torch)
    in_jax: dict[str, object] = {"path": path, "inputs": jnp.asarray(x), "h_0": jnp.asarray(state)}
    in_jax["c_0"] = in_jax["h_0"]
    exec("import jaxlstm\nfrom flax import nnx\n" + ours, in_jax)
    wanted = in_torch["outputs"].detach().numpy()  # type: ignore[attr-defined]
    assert abs(in_jax["outputs"] - wanted).max() < 1e-6  # type: ignore[operator]


def test_the_table_of_errors_keeps_what_is_promised() -> None:
    """Half precision and float32 within twice torch's own error; every dtype has its row."""
    table = README[README.index("<!-- accuracy -->") : README.index("<!-- /accuracy -->")]
    assert re.findall(r"^\| (\w+\d+) ", table, re.MULTILINE) == [
        "float32",
        "float16",
        "bfloat16",
        "float64",
    ]
    ratios = [float(r) for r in re.findall(r"worst ([\d.]+)", table)]
    assert len(ratios) == 6
    assert max(ratios) <= 2


def test_the_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_pictures_stand_alone() -> None:
    """Each is there, said in words, and well-formed SVG without a script or anything from elsewhere."""
    shown = set()
    for page in (ROOT / "docs").glob("*.md"):
        for words, target in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", page.read_text()):
            picture = page.parent / target
            shown.add(picture)
            assert len(words.split()) > 20, f"{page.name}: {target} is not said in words"
            source = picture.read_text()
            assert len(source) < 10_000, target
            assert not re.search(r"<!(?!--)|<\?", source), f"{target}: a doctype or an instruction"
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


def test_the_commands_are_those_of_the_parser() -> None:
    from jaxlstm.cli import COMMANDS

    told = set(re.findall(r"^jaxlstm (\w+)", README, re.MULTILINE))
    assert told == {command.__name__.rpartition(".")[2] for command in COMMANDS}


def quoted(title: str) -> dict[str, list[str]]:
    """The rows of a table of speed, by the size that each is of."""
    table = README[README.index(title) :].split("\n\n")[1]
    rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines())
    return {size: cells for size, *cells in rows}


@pytest.mark.parametrize(
    ("title", "file", "columns"),
    [
        (
            "Inference on an Intel Xeon",
            "cpu-intel-xeon-amx-2-cores",
            {"torch": 1, "onnxruntime": 2, "openvino": 3, "flax-nnx": 4},
        ),
        ("A training step,", "cpu-amd-epyc-2-cores-training", {"torch": 1}),
    ],
)
def test_speed_is_as_in_the_results(title: str, file: str, columns: dict[str, int]) -> None:
    results = json.loads((ROOT / f"benchmarks/results/{file}.json").read_text())["results"]
    rows = quoted(title)
    for row in results:
        cells, ms = rows[row["size"]], row["ms"]
        if len(columns) > 1:  # the first cell is the time itself
            assert float(cells[0]) == pytest.approx(ms["jaxlstm"], rel=0.02)
        for name, column in columns.items():
            found = ms[name] / ms["jaxlstm"] if name in ms else None
            assert cells[column] in (["-"] if found is None else [f"{found:.2f}", f"{found:.0f}"])
