"""``jaxlstm bench`` on a device that is not here, as far as it can be had: stand-ins take the GPU's place."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
import torch
from jax.experimental import rnn

from jaxlstm import cli
from jaxlstm.bench import agreement, timing
from jaxlstm.bench.peers import PEERS, cudnn
from jaxlstm.bench.peers import torch as torch_peer
from jaxlstm.bench.setting import Setting, applied
from jaxlstm.bench.side import Unsupported
from jaxlstm.bench.sizes import TINY_SIZES, Problem, Size, make_problem
from jaxlstm.check.reference import torch_precision
from jaxlstm.config import LSTMConfig

RAGGED = TINY_SIZES["train"][0]
TWO_LAYERS = Size(5, 3, LSTMConfig(3, 4, num_layers=2, bidirectional=True), ragged=True)
GPU = Setting("gpu", "highest", 1)


@pytest.fixture(autouse=True)
def short_bursts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "BURST_SECONDS", 1e-4)
    monkeypatch.setattr(timing, "WARM_SECONDS", 1e-4)


@pytest.fixture
def lstm_of_cudnn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """JAX's own reference in cuDNN's place, on weights taken apart again; gives the precisions asked for."""
    asked: list[Any] = []

    def stand_in(x: Any, h_0: Any, c_0: Any, weights: Any, lengths: Any, *rest: Any) -> Any:
        input_size, hidden_size, num_layers, dropout, bidirectional, precision = rest
        asked.append(precision)
        sizes = (input_size, hidden_size, num_layers)
        parts = rnn.unpack_lstm_weights(weights, *sizes, bidirectional)
        return rnn.lstm_ref(x, h_0, c_0, *parts, lengths, *sizes, dropout, bidirectional)

    monkeypatch.setattr(rnn, "lstm", stand_in)
    return asked


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """torch on the CPU where a GPU is meant; gives who waited for the device, and when."""
    found: list[str] = []
    wait = lambda: found.append("torch")  # noqa: E731
    monkeypatch.setattr(torch_peer, "place", lambda device: torch_peer.Place("cpu", wait))
    return found


def assert_right(problem: Problem, answer: Any, mode: str) -> None:
    error, fault = agreement.disagreement(answer, agreement.truth(problem, mode), mode)
    assert fault is None
    assert error < 1e-6


@pytest.mark.parametrize(
    "size", [RAGGED, TWO_LAYERS, TINY_SIZES["infer"][0]], ids=lambda s: s.label
)
def test_cudnn_gets_our_weights_in_its_layout(size: Size, lstm_of_cudnn: list[Any]) -> None:
    problem = make_problem(size)
    side = cudnn.side(problem, GPU)
    assert_right(problem, side.infer(), "infer")
    assert side.train is not None
    assert_right(problem, side.train(), "train")
    assert set(lstm_of_cudnn) == {"highest"}
    cudnn.side(problem, Setting("gpu", "bfloat16", 1)).infer()  # which cuDNN's LSTM in JAX has not
    assert lstm_of_cudnn[-1] == "tensorfloat32"


def test_cudnn_has_no_projection() -> None:
    with pytest.raises(Unsupported, match="no projection"):
        cudnn.side(make_problem(TINY_SIZES["infer"][2]), GPU)


def test_torch_goes_to_cuda_and_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert torch_peer.place("gpu") == ("cuda", torch.cuda.synchronize)
    assert torch_peer.place("cpu").device == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Unsupported, match="sees no CUDA device"):
        torch_peer.place("gpu")


def test_torch_waits_in_each_call(waits: list[str]) -> None:
    problem = make_problem(RAGGED)
    side = torch_peer.side(problem, GPU)
    assert_right(problem, side.infer(), "infer")
    assert waits == ["torch"]
    assert side.train is not None
    assert_right(problem, side.train(), "train")
    assert waits == ["torch", "torch"]


@pytest.mark.parametrize(
    ("device", "precision", "arithmetic"),
    [
        ("cpu", "bfloat16", "float32"),
        ("gpu", "highest", "float32"),
        ("gpu", "float32", "float32"),
        ("gpu", "tensorfloat32", "tf32"),
        ("gpu", "bfloat16", "tf32"),
        ("tpu", "highest", "float32"),
        ("tpu", "tensorfloat32", "tf32"),
        ("tpu", "bfloat16", "bfloat16"),
    ],
)
def test_what_a_precision_is_on_a_device(device: str, precision: str, arithmetic: str) -> None:
    assert Setting(device, precision, 1).arithmetic == arithmetic


@pytest.mark.parametrize(
    ("arithmetic", "bits"), [("float32", None), ("tf32", 10), ("bfloat16", 7)], ids=str
)
def test_the_tolerance_fits_the_arithmetic(arithmetic: str, bits: int | None) -> None:
    """Weights rounded to its bits pass, and to a third of them do not; nor do gates in another order."""
    problem = make_problem(Size(20, 4, LSTMConfig(16, 32)))
    wanted = agreement.truth(problem, "infer")

    def fault(params: dict[str, Any]) -> str | None:
        rounded = Problem(problem.size, params, problem.inputs, None)
        answer = agreement.truth(rounded, "infer")["outputs"]
        return agreement.disagreement(answer, wanted, "infer", arithmetic)[1]

    def cut(array: np.ndarray, bits: int) -> np.ndarray:
        return np.asarray(jax.lax.reduce_precision(array, 8, bits))

    params = problem.params
    assert fault({n: cut(a, bits or 23) for n, a in params.items()}) is None
    assert fault({n: cut(a, (bits or 23) // 3) for n, a in params.items()}) is not None
    i, f, g, o = np.split(params["weight_hh_l0"], 4)
    assert fault(params | {"weight_hh_l0": np.concatenate([f, i, g, o])}) is not None


def bench_on_a_gpu(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The command with the CPU in the place of a GPU."""
    (cpu,) = jax.devices("cpu")
    there = {"gpu": [cpu], "cpu": [cpu], None: [cpu]}
    monkeypatch.setattr(jax, "devices", lambda platform=None: there[platform])
    found = SimpleNamespace(platform="gpu")
    monkeypatch.setattr("jaxlstm.cli.bench.require_device", lambda option, name: found)
    return cli.main(["bench", "--tiny", "--rounds", "3", "--device", "gpu", *arguments])


@pytest.mark.parametrize(("precision", "in_torch"), [("highest", "ieee"), ("bfloat16", "tf32")])
def test_the_whole_command(
    precision: str,
    in_torch: str,
    waits: list[str],
    lstm_of_cudnn: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, before = tmp_path / "out.json", torch_precision.in_force()
    blocked, ready = [], jax.block_until_ready
    monkeypatch.setattr(jax, "block_until_ready", lambda x: blocked.append("jax") or ready(x))
    options = ["--against", "torch,cudnn,openvino", "--precision", precision, "--json", str(out)]
    assert bench_on_a_gpu(monkeypatch, *options) == 0
    told = capsys.readouterr().out
    assert "openvino: left out, does not run on a GPU here" in told
    found = json.loads(out.read_text())
    assert (found["device"], found["precision"]) == ("gpu", precision)
    assert found["arithmetic"] == ("float32" if precision == "highest" else "tf32")
    assert found["device_name"]
    assert found["platform_version"]
    assert found["in_force"]["jax_default_matmul_precision"] == precision
    for name in ("cudnn.rnn", "cuda.matmul"):
        assert found["in_force"][f"torch.backends.{name}.fp32_precision"] == in_torch
    for row in found["results"]:
        assert row["wrong"] == {}
        absent = {"cudnn"} if row["proj_size"] else set()
        assert set(row["ms"]) == {"jaxlstm", "torch", "cudnn"} - absent
    timed = 3 * len(found["results"])  # each at least once untimed and once timed in each round
    assert len(waits) >= 2 * timed
    assert len(blocked) >= 2 * timed
    assert torch_precision.in_force() == before


def test_every_side_is_set_alike_and_put_back() -> None:
    config: Any = jax.config
    before = torch_precision.in_force(), config.jax_default_matmul_precision
    with applied(Setting("cpu", "tensorfloat32", 1), ["torch"]) as found:
        assert found["jax_default_matmul_precision"] == "tensorfloat32"
        assert found["torch.backends.cudnn.rnn.fp32_precision"] == "ieee"  # a CPU has no TF32
        assert (
            found == {"jax_default_matmul_precision": "tensorfloat32"} | torch_precision.in_force()
        )
    assert (torch_precision.in_force(), config.jax_default_matmul_precision) == before
    with applied(Setting("cpu", "highest", 1), ["flax-nnx"]) as found:
        assert list(found) == ["jax_default_matmul_precision"]


@pytest.mark.parametrize("device", ["gpu", "tpu"])
def test_a_device_that_is_not_here_is_one_line(
    device: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if device in {d.platform for d in jax.devices()}:
        pytest.skip(f"there is a {device}")
    assert cli.main(["bench", "--device", device]) == 2
    told = capsys.readouterr()
    assert told.err == f"jaxlstm bench: --device {device}: JAX sees no such device here\n"
    assert told.out == ""


def test_who_runs_where() -> None:
    on = {d: {n for n, peer in PEERS.items() if d in peer.devices} for d in ("cpu", "gpu", "tpu")}
    in_jax = {"flax-nnx", "flax-linen", "equinox", "haiku", "keras"}
    assert on["tpu"] == in_jax
    assert on["gpu"] == in_jax | {"torch", "torch-compile", "cudnn"}
    assert on["cpu"] == in_jax | {"torch", "torch-compile", "onnxruntime", "openvino"}
