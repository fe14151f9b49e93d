"""The parts of a benchmark: comparison with the oracle, timing, and what is recorded."""

from __future__ import annotations

import dataclasses
import json
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

import jaxlstm
from benchmarks import layer, peers, record, streams, timing
from benchmarks.__main__ import main
from benchmarks.parts import PARTS, Settings
from benchmarks.peers import PEERS
from benchmarks.problems import (
    TINY_SIZES,
    Implementation,
    Problem,
    Size,
    compare,
    expected_arrays,
    make_problem,
    own,
)

RAGGED = TINY_SIZES["train"][0]


@pytest.mark.parametrize("name", ["inputs", "weight_ih_l0", "bias_hh_l0"])
def test_each_gradient_is_compared(name: str) -> None:
    expected = expected_arrays(make_problem(RAGGED), "train")
    right = {key: value.astype(np.float32) for key, value in expected.items()}
    wrong = right | {name: right[name] * 1.001}
    error, fault = compare((right["inputs"], right), expected, "train")
    assert fault is None
    assert error < 1e-7
    error, fault = compare((wrong["inputs"], wrong), expected, "train")
    assert error == pytest.approx(1e-3, rel=1e-3)
    assert fault is not None
    assert f"the gradient of {name} differs" in fault


@pytest.mark.parametrize("value", [np.nan, 2e-5])
def test_wrong_outputs_are_found(value: float) -> None:
    expected = expected_arrays(make_problem(TINY_SIZES["infer"][0]), "infer")
    outputs = expected["outputs"].copy()
    outputs[-1, -1, -1] += value
    assert compare(outputs, expected, "infer")[1] is not None
    fault = compare(expected["outputs"][:-1], expected, "infer")[1]
    assert fault == "outputs: shape (4, 2, 8), expected (5, 2, 8)"


@pytest.mark.parametrize(("dtype", "bits"), [("float32", None), ("float16", 10), ("bfloat16", 7)], ids=str)
def test_tolerances_fit_the_dtype(dtype: str, bits: int | None) -> None:
    """Weights rounded to the dtype's bits pass; a third of the bits or another gate order fail."""
    problem = make_problem(Size(20, 4, jaxlstm.LSTMConfig(16, 32)))
    expected = expected_arrays(problem, "infer")

    def fault(params: dict[str, Any]) -> str | None:
        rounded = Problem(problem.size, params, problem.inputs, None)
        outputs = expected_arrays(rounded, "infer")["outputs"]
        return compare(outputs, expected, "infer", dtype)[1]

    def rounded(bits: int) -> dict[str, Any]:
        params = problem.params.items()
        return {n: np.asarray(jax.lax.reduce_precision(a, 8, bits)) for n, a in params}

    assert fault(rounded(bits or 23)) is None
    assert fault(rounded((bits or 23) // 3)) is not None
    i, f, g, o = np.split(problem.params["weight_hh_l0"], 4)
    assert fault(problem.params | {"weight_hh_l0": np.concatenate([f, i, g, o])}) is not None


def test_turns_rotate_and_start_warm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "BURST_SECONDS", 0.0)
    monkeypatch.setattr(timing, "WARM_SECONDS", 0.0)
    now = [0.0]
    called: list[str] = []

    def call(name: str, seconds: float) -> timing.Call:
        def work() -> None:
            called.append(name)
            now[0] += seconds

        return work

    calls = {"a": call("a", 0.002), "b": call("b", 0.005)}
    times = timing.interleaved(calls, 3, clock=lambda: now[0])
    np.testing.assert_allclose(times["a"], [2, 2, 2])
    np.testing.assert_allclose(times["b"], [5, 5, 5])
    assert "".join(called) == "aabb" + "aabb" + "bbaa" + "aabb"  # once warm, once timed
    called.clear()
    timing.interleaved({"a": call("a", 0.002), "c": call("c", 0.3)}, 2, clock=lambda: now[0])
    assert "".join(called) == "aacc" + "aac" + "caa"  # long calls are only timed


@pytest.mark.parametrize("part", [streams.run, streams.sequences])
def test_streams_and_sequences(part: Any) -> None:
    """The parts compare the outputs themselves."""
    names = tuple(n for n in ("torch", "onnxruntime") if not peers.missing(n))
    settings = Settings(1, rounds=2, tiny=True, against=names)
    rows = list(part(settings))
    for row in rows:
        assert all(0 < low <= median <= high for low, median, high in row["values"].values())
    assert rows[0]["values"].keys() > {"jaxlstm", *names}
    assert "jaxlstm one by one" in rows[-1]["values"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["programs", "accuracy"])
def test_other_parts(name: str) -> None:
    part = PARTS[name]
    settings = Settings(1, rounds=1, tiny=True, against=("torch",))
    for row in part.run()(settings):
        assert row["case"]
        assert row.get("values", {"jaxlstm": row.get("columns")})["jaxlstm"]


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
    assert bench(f"layer-{mode}", "--against", *names, "--json", str(out)) == 0
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
    arguments = ["--dtype", "bfloat16", "--against", "torch", "onnxruntime", "--json", str(out)]
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
