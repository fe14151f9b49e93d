"""``jaxlstm bench``: who takes part, that the wrong are caught before the clock runs, what is written."""

from __future__ import annotations

import dataclasses
import json
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxlstm import cli
from jaxlstm.bench import agreement, machine, measure, peers, timing
from jaxlstm.bench.jax_side import own_side
from jaxlstm.bench.machine import threads
from jaxlstm.bench.setting import Setting
from jaxlstm.bench.side import Side
from jaxlstm.bench.sizes import SIZES, TINY_SIZES, make_problem

QUICK = ("torch", "onnxruntime", "openvino", "flax-nnx", "equinox", "keras")
SLOW = ("torch-compile", "flax-linen", "haiku")
RAGGED = TINY_SIZES["train"][0]
BOTH_WAYS = TINY_SIZES["infer"][0]
CANNOT = {
    "infer": {
        "ragged": {"equinox", "haiku"},
        "proj_size": {
            "onnxruntime",
            "openvino",
            "flax-nnx",
            "flax-linen",
            "equinox",
            "haiku",
            "keras",
        },
    }
}
CANNOT["train"] = {
    "ragged": CANNOT["infer"]["ragged"] | {"onnxruntime", "openvino"},
    "proj_size": CANNOT["infer"]["proj_size"],
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread a side, since waiting for a second on a busy machine takes seconds; short bursts."""
    monkeypatch.setattr(machine, "threads", lambda: 1)
    monkeypatch.setattr(timing, "BURST_SECONDS", 1e-4)
    monkeypatch.setattr(timing, "WARM_SECONDS", 1e-4)


def bench(*arguments: str) -> int:
    return cli.main(["bench", "--tiny", "--rounds", "3", *arguments])


def here(names: tuple[str, ...]) -> list[str]:
    return [name for name in names if not peers.missing(name)]


def assert_everything(names: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All sizes in both modes: who could was right and timed, who could not is a dash."""
    pytest.importorskip("matplotlib", reason="--png draws with matplotlib")
    out, png = tmp_path / "out.json", tmp_path / "out.png"
    assert bench("--against", ",".join(names), "--json", str(out), "--png", str(png)) == 0
    printed = capsys.readouterr().out
    found = json.loads(out.read_text())
    assert png.read_bytes().startswith(b"\x89PNG")
    distributions = {d for name in names for d in peers.PEERS[name].distributions}
    for distribution in {"jax", "jaxlib", "numpy"} | distributions:
        assert found["versions"][distribution] == metadata.version(distribution)
    assert found["cpu"] == found["device_name"] == machine.cpu_name()
    assert (found["device"], found["precision"], found["arithmetic"]) == (
        "cpu",
        "highest",
        "float32",
    )
    assert (found["threads"], found["rounds"], found["backend"]) == (1, 3, "auto")
    assert isinstance(found["kernels"]["native"], bool)
    assert [(row["mode"], row["size"]) for row in found["results"]] == [
        (mode, size.label) for mode, sizes in TINY_SIZES.items() for size in sizes
    ]
    for row in found["results"]:
        kind = "ragged" if row["ragged"] else "proj_size" if row["proj_size"] else ""
        absent = CANNOT[row["mode"]].get(kind, set()) & set(names)
        assert set(row["left_out"]) == absent
        assert set(row["ms"]) == {"jaxlstm", *names} - absent
        assert row["wrong"] == {}
        for name, ms in row["ms"].items():
            least, most = row["ms_range"][name]
            assert 0 < least <= ms <= most
            assert 0 < row["error"][name] < 1e-6
            assert row["first_call_s"][name] > 0
        assert f"{row['ms']['jaxlstm']:.3g}" in printed
        for name in set(row["ms"]) - {"jaxlstm"}:
            assert (
                f"{row['ms'][name]:.3g} ({row['ms'][name] / row['ms']['jaxlstm']:.2f})" in printed
            )


def test_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_everything(here(QUICK), tmp_path, capsys)


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:`torch.jit.script_method`:DeprecationWarning"
)  # torch's own import
def test_everything_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    on_a_cpu = {name for name, peer in peers.PEERS.items() if "cpu" in peer.devices}
    assert set(QUICK) | set(SLOW) == on_a_cpu
    assert_everything(here(SLOW), tmp_path, capsys)


def test_wrong_weights_are_caught_before_the_clock_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def with_forget_and_input_gate_exchanged(problem: Any, setting: Setting) -> Side:
        params = dict(problem.params)
        i, f, g, o = np.split(params["weight_hh_l0"], 4)
        params["weight_hh_l0"] = np.concatenate([f, i, g, o])
        return own_side(dataclasses.replace(problem, params=params), "scan", setting.precision)

    timed: list[set[str]] = []
    original = measure.by_turns
    monkeypatch.setattr(peers, "load", lambda name: with_forget_and_input_gate_exchanged)
    monkeypatch.setattr(
        measure, "by_turns", lambda calls, n: timed.append(set(calls)) or original(calls, n)
    )
    out = tmp_path / "out.json"
    assert bench("--against", "flax-nnx", "--mode", "infer", "--json", str(out)) == 1
    assert timed == [{"jaxlstm"}] * len(TINY_SIZES["infer"])
    for row in json.loads(out.read_text())["results"]:
        assert set(row["ms"]) == {"jaxlstm"}
        assert "outputs differs from the float64 oracle by" in row["wrong"]["flax-nnx"]
    printed = capsys.readouterr().out
    assert "WRONG, not timed: flax-nnx: outputs differs" in printed
    assert printed.count(" wrong") == len(TINY_SIZES["infer"])


@pytest.mark.parametrize("name", ["inputs", "weight_ih_l0", "bias_hh_l0"])
def test_each_gradient_is_compared(name: str) -> None:
    problem = make_problem(RAGGED)
    wanted = agreement.truth(problem, "train")
    right = {key: value.astype(np.float32) for key, value in wanted.items()}
    wrong = right | {name: right[name] * 1.001}
    weights = [
        {k: v for k, v in gradients.items() if k != "inputs"} for gradients in (right, wrong)
    ]
    error, fault = agreement.disagreement((right["inputs"], weights[0]), wanted, "train")
    assert fault is None
    assert error < 1e-7
    error, fault = agreement.disagreement((wrong["inputs"], weights[1]), wanted, "train")
    assert error == pytest.approx(1e-3, rel=1e-3)
    assert fault is not None
    assert f"the gradient by {name} differs" in fault


@pytest.mark.parametrize("value", [np.nan, 2e-5])
def test_outputs_that_are_no_numbers_or_a_little_off(value: float) -> None:
    wanted = agreement.truth(make_problem(BOTH_WAYS), "infer")
    outputs = wanted["outputs"].copy()
    outputs[-1, -1, -1] += value
    assert agreement.disagreement(outputs, wanted, "infer")[1] is not None
    outputs = wanted["outputs"][:-1]
    assert "shape (4, 2, 8), wanted (5, 2, 8)" in str(
        agreement.disagreement(outputs, wanted, "infer")
    )


def test_sides_take_turns_and_are_warm_when_timed(monkeypatch: pytest.MonkeyPatch) -> None:
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
    found = timing.by_turns(calls, 3, clock=lambda: now[0])
    np.testing.assert_allclose(found["a"], [2, 2, 2])
    np.testing.assert_allclose(found["b"], [5, 5, 5])
    assert "".join(called) == "aabb" + "aabb" + "bbaa" + "aabb"  # once warm, once timed


def test_what_is_not_installed_is_left_out_aloud(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = peers.Peer("nothing", ("no-such-distribution",))
    monkeypatch.setitem(peers.PEERS, "haiku", absent)
    out = tmp_path / "out.json"
    assert bench("--against", "haiku", "--mode", "infer", "--json", str(out)) == 0
    assert "haiku: left out, not installed: no-such-distribution\n" in capsys.readouterr().out
    assert all(set(row["ms"]) == {"jaxlstm"} for row in json.loads(out.read_text())["results"])


def test_threads_are_those_that_xla_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own setting, unless that is no number above zero."""
    monkeypatch.delenv("NPROC", raising=False)
    usual = threads()
    for told, wanted in {"3": 3, "0": usual, "-1": usual, "": usual, "two": usual}.items():
        monkeypatch.setenv("NPROC", told)
        assert threads() == wanted


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--against", "torch,pytorch"], "no such library: 'pytorch'; known are torch,"),
        (["--against", ""], "no such library: ''"),
        (["--rounds", "0"], "must be a whole number above zero, got '0'"),
        (["--json", "nowhere/out.json"], "--json nowhere/out.json: its folder does not exist"),
        (["--png", "nowhere/out.png"], "--png nowhere/out.png: its folder does not exist"),
        (["--json", "."], "--json .: is a folder"),
        (["--png", "."], "--png .: is a folder"),
        (["--backend", "native"], "turned off by the environment variable JAXLSTM_NATIVE"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_usage_is_one_line(
    arguments: list[str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("JAXLSTM_NATIVE", "0")
    try:
        status = bench(*arguments)
    except SystemExit as stop:  # argparse's way
        status = stop.code
    assert status == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_the_real_sizes_have_everything() -> None:
    assert [len(SIZES[mode]) for mode in ("infer", "train")] == [7 + 3, 4 + 3]
    for sizes in (*SIZES.values(), TINY_SIZES["infer"]):
        assert any(size.config.bidirectional for size in sizes)
        assert any(size.config.proj_size for size in sizes)
        assert any(size.ragged for size in sizes)


def test_lengths_are_unsorted_and_the_numbers_those_of_the_seed() -> None:
    problem, again = make_problem(SIZES["infer"][-1]), make_problem(SIZES["infer"][-1])
    assert problem.lengths is not None
    assert sorted(problem.lengths)[:: len(problem.lengths) - 1] == [1, problem.size.time]
    assert sorted(problem.lengths, reverse=True) != list(problem.lengths)
    np.testing.assert_array_equal(problem.inputs, again.inputs)
