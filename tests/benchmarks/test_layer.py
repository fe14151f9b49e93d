"""``python -m benchmarks``: who takes part, wrong results are not timed, the files that it writes."""

from __future__ import annotations

import dataclasses
import json
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import layer, machine, peers
from benchmarks.__main__ import main
from benchmarks.implementation import Implementation, own
from benchmarks.peers import PEERS
from benchmarks.problems import SIZES, TINY_SIZES, make_problem
from benchmarks.settings import Settings

QUICK = ("torch", "onnxruntime", "flax-nnx", "keras")
SLOW = ("torch-compile", "openvino", "flax-linen", "equinox", "haiku")
CANNOT = {"ragged": {"equinox", "haiku"}, "proj_size": set(PEERS) - {"torch", "torch-compile"}}
DO_NOT_TRAIN = {"onnxruntime", "openvino"}


def bench(*arguments: str) -> int:
    return main(["--tiny", "--rounds", "3", *arguments])


def check_everything(names: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All sizes in both modes: each library that can run a problem is right and timed."""
    pytest.importorskip("matplotlib", reason="--png needs matplotlib")
    names = tuple(name for name in names if not peers.missing(name))
    out, png = tmp_path / "out.json", tmp_path / "out.png"
    assert bench("--against", ",".join(names), "--json", str(out), "--png", str(png)) == 0
    printed, results = capsys.readouterr().out, json.loads(out.read_text())
    assert png.read_bytes().startswith(b"\x89PNG")
    distributions = {d for name in names for d in PEERS[name].distributions}
    for distribution in {"jax", "jaxlib", "numpy"} | distributions:
        assert results["versions"][distribution] == metadata.version(distribution)
    assert results["cpu"] == results["device_name"] == machine.cpu_name()
    expected = {"device": "cpu", "precision": "highest", "arithmetic": "float32"}
    expected |= {"threads": 1, "rounds": 3, "backend": "auto"}
    assert expected.items() <= results.items()
    assert [(row["mode"], row["size"]) for row in results["results"]] == [
        (mode, size.label) for mode, sizes in TINY_SIZES.items() for size in sizes
    ]
    for row in results["results"]:
        absent = CANNOT.get("ragged" if row["ragged"] else "proj_size" if row["proj_size"] else "", set())
        absent = (absent | (DO_NOT_TRAIN if row["mode"] == "train" else set())) & set(names)
        assert set(row["left_out"]) == absent
        assert set(row["ms"]) == {"jaxlstm", *names} - absent
        assert row["wrong"] == {}
        for name, ms in row["ms"].items():
            least, most = row["ms_range"][name]
            assert 0 < least <= ms <= most
            assert 0 < row["error"][name] < 1e-6
            assert row["first_call_s"][name] > 0
            ratio = "" if name == "jaxlstm" else f" ({ms / row['ms']['jaxlstm']:.2f})"
            assert f"{ms:.3g}{ratio}" in printed


def test_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check_everything(QUICK, tmp_path, capsys)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")  # from torch
def test_everything_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert set(QUICK) | set(SLOW) == {name for name in PEERS if "cpu" in PEERS[name].devices}
    check_everything(SLOW, tmp_path, capsys)


def test_wrong_results_are_not_timed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def with_exchanged_gates(problem: Any, settings: Settings) -> Implementation:
        params = dict(problem.params)
        i, f, g, o = np.split(params["weight_hh_l0"], 4)
        params["weight_hh_l0"] = np.concatenate([f, i, g, o])
        return own(dataclasses.replace(problem, params=params), "scan", settings.precision)

    timed: list[set[str]] = []
    interleaved = layer.interleaved
    adapter = SimpleNamespace(implementation=with_exchanged_gates)
    monkeypatch.setattr(peers, "load", lambda name: adapter)
    monkeypatch.setattr(
        layer, "interleaved", lambda calls, n: timed.append(set(calls)) or interleaved(calls, n)
    )
    monkeypatch.setitem(TINY_SIZES, "infer", TINY_SIZES["infer"][1:2])
    out = tmp_path / "out.json"
    assert bench("--against", "flax-nnx", "--mode", "infer", "--json", str(out)) == 1
    assert timed == [{"jaxlstm"}]
    (row,) = json.loads(out.read_text())["results"]
    assert set(row["ms"]) == {"jaxlstm"}
    assert "outputs differs from the float64 oracle by" in row["wrong"]["flax-nnx"]
    printed = capsys.readouterr().out
    assert "WRONG, not timed: flax-nnx: outputs differs" in printed
    assert printed.count(" wrong") == 1


def test_missing_libraries_are_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(PEERS, "haiku", peers.Peer("nothing", ("no-such-distribution",)))
    monkeypatch.setitem(TINY_SIZES, "infer", TINY_SIZES["infer"][:1])
    assert bench("--against", "haiku,cudnn", "--mode", "infer") == 0
    printed = capsys.readouterr().out
    assert "haiku is left out: not installed: no-such-distribution\n" in printed
    assert "cudnn is left out: does not run on a CPU\n" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--against", "torch,pytorch"], "unknown library: 'pytorch'; choose from torch,"),
        (["--against", ""], "unknown library: ''"),
        (["--rounds", "0"], "expected a positive integer, got '0'"),
        (["--json", "absent/out.json"], "absent/out.json: its directory does not exist"),
        (["--png", "."], "--png: . is a directory"),
        (["--device", "tpu"], "--device tpu: "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_usage(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        bench(*arguments)
    assert message in capsys.readouterr().err


def test_threads_follow_xla(monkeypatch: pytest.MonkeyPatch) -> None:
    """XLA's own setting, unless it is not a positive number."""
    monkeypatch.undo()
    monkeypatch.delenv("NPROC", raising=False)
    default = machine.threads()
    for value, expected in {"3": 3, "0": default, "-1": default, "": default, "two": default}.items():
        monkeypatch.setenv("NPROC", value)
        assert machine.threads() == expected


def test_sizes_cover_the_unusual_options() -> None:
    assert [len(SIZES[mode]) for mode in ("infer", "train")] == [7 + 3, 4 + 3]
    for sizes in (*SIZES.values(), TINY_SIZES["infer"]):
        assert any(size.config.bidirectional for size in sizes)
        assert any(size.config.proj_size for size in sizes)
        assert any(size.ragged for size in sizes)


def test_lengths_are_unsorted_and_numbers_repeat() -> None:
    problem, again = make_problem(SIZES["infer"][-1]), make_problem(SIZES["infer"][-1])
    assert problem.lengths is not None
    assert sorted(problem.lengths)[:: len(problem.lengths) - 1] == [1, problem.size.time]
    assert sorted(problem.lengths, reverse=True) != list(problem.lengths)
    np.testing.assert_array_equal(problem.inputs, again.inputs)
