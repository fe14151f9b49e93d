"""The parts layer-infer and layer-train: who takes part, wrong results are not timed, the recorded file."""

from __future__ import annotations

import dataclasses
import json
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import layer, peers, record
from benchmarks.__main__ import main
from benchmarks.parts import Settings
from benchmarks.peers import PEERS
from benchmarks.problems import TINY_SIZES, Implementation, own

NAMES = ("torch", "onnxruntime", "openvino", "flax-nnx")
DO_NOT_TRAIN = {"onnxruntime", "openvino"}


def bench(*arguments: str) -> int:
    return main(["--tiny", "--rounds", "3", *arguments])


@pytest.mark.parametrize("mode", ["infer", "train"])
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")  # from torch
def test_all_sizes(mode: str, tmp_path: Path) -> None:
    """Each library that can run a problem is right and timed."""
    names = tuple(name for name in NAMES if not peers.missing(name))
    out = tmp_path / "out.json"
    assert bench(f"layer-{mode}", "--against", ",".join(names), "--json", str(out)) == 0
    document = json.loads(out.read_text())
    distributions = {d for name in names for d in PEERS[name]}
    for distribution in {"jax", "jaxlib", "numpy"} | distributions:
        assert document["versions"][distribution] == metadata.version(distribution)
    assert document["cpu"] == record.cpu_name()
    part = document["parts"][f"layer-{mode}"]
    expected = {"threads": 1, "rounds": 3, "dtype": "float32", "against": list(names)}
    assert expected.items() <= part["settings"].items()
    assert [row["case"] for row in part["rows"]] == [size.label for size in TINY_SIZES[mode]]
    ours = {"jaxlstm", "jaxlstm Runner"} if mode == "infer" else {"jaxlstm"}
    for row in part["rows"]:
        cannot = set(PEERS) - {"torch"} if "projected" in row["words"] else set()
        absent = cannot.union(DO_NOT_TRAIN if mode == "train" else ()) & set(names)
        assert set(row.get("left_out", ())) == absent
        assert set(row["values"]) == {*ours, *names} - absent
        assert "wrong" not in row
        for name, (low, median, high) in row["values"].items():
            assert 0 < low <= median <= high
            assert 0 < row["error"][name] < 1e-6


def test_half_precision(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All get the same rounded numbers and compute in bfloat16; the part has a separate name."""
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    monkeypatch.setitem(TINY_SIZES, "infer", TINY_SIZES["infer"][1:2])
    out = tmp_path / "out.json"
    arguments = ["--dtype", "bfloat16", "--against", "torch,onnxruntime", "--json", str(out)]
    assert bench("layer-infer", *arguments) == 0
    ((name, part),) = json.loads(out.read_text())["parts"].items()
    assert name == "layer-infer-bfloat16"
    (row,) = part["rows"]
    assert row["left_out"] == {"onnxruntime": "has no LSTM in bfloat16"}
    assert row["values"].keys() == row["error"].keys() == {"jaxlstm", "jaxlstm Runner", "torch"}
    assert all(1e-4 < error < 2e-2 for error in row["error"].values())  # rounded, unlike float32
    assert "has no LSTM in bfloat16" in capsys.readouterr().out


def test_wrong_results_are_not_timed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def with_exchanged_gates(problem: Any, settings: Settings) -> Implementation:
        params = dict(problem.params)
        i, f, g, o = np.split(params["weight_hh_l0"], 4)
        params["weight_hh_l0"] = np.concatenate([f, i, g, o])
        return own(dataclasses.replace(problem, params=params), settings)

    timed: list[set[str]] = []
    interleaved = layer.interleaved
    adapter = SimpleNamespace(implementation=with_exchanged_gates)
    monkeypatch.setattr(peers, "load", lambda name: adapter)
    monkeypatch.setattr(
        layer, "interleaved", lambda calls, n: timed.append(set(calls)) or interleaved(calls, n)
    )
    monkeypatch.setitem(TINY_SIZES, "train", TINY_SIZES["train"][:1])
    out = tmp_path / "out.json"
    assert bench("layer-train", "--against", "flax-nnx", "--json", str(out)) == 1
    assert timed == [{"jaxlstm"}]
    (row,) = json.loads(out.read_text())["parts"]["layer-train"]["rows"]
    assert set(row["values"]) == {"jaxlstm"}
    assert "differs from the float64 oracle by" in row["wrong"]["flax-nnx"]
    printed = capsys.readouterr().out
    assert "wrong: flax-nnx: the gradient of" in printed
    assert "| wrong |" in printed
