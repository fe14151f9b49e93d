"""ONNX LSTM nodes become torch's parameters, gate by gate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from jaxlstm_converters.checkpoint import CheckpointError, read_checkpoint
from testing.checkpoints.compare import assert_same_bits, assert_same_checkpoint
from testing.checkpoints.onnx_files import save, stacked, write
from testing.wheels import fetch_pinned


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_layers(tmp_path: Path, bidirectional: bool, bias: bool, dtype: torch.dtype) -> None:
    module = torch.nn.LSTM(5, 4, 3, bias=bias, bidirectional=bidirectional, dtype=dtype)
    ours = read_checkpoint(write(tmp_path / "a.onnx", module))
    expected = {f"encoder.lstm.{name}": t for name, t in module.state_dict().items()}
    head = torch.arange(6.0, dtype=torch.float64).reshape(2, 3)
    assert_same_checkpoint(ours, expected | {"head.weight": head})
    assert ours.container == "ONNX"
    assert ours.warnings == []


def test_batch_first_hint(tmp_path: Path) -> None:
    ours = read_checkpoint(write(tmp_path / "a.onnx", torch.nn.LSTM(2, 3), layout=1))
    assert ours.hints == {"encoder.lstm.": {"batch_first": True, "dropout": 0.0}}


def test_two_independent_lstms_in_one_scope(tmp_path: Path) -> None:
    first, second = torch.nn.LSTM(5, 4), torch.nn.LSTM(7, 4)
    nodes, initializers = [], []
    for number, module in enumerate([first, second]):
        names = [f"{k}{number}" for k in "WRB"]
        parts = stacked(module, 0)
        initializers += [numpy_helper.from_array(a, n) for n, a in zip(names, parts.values(), strict=True)]
        nodes += [helper.make_node("LSTM", ["x", *names], ["y"], name=f"LSTM_{number}")]
    # A second LSTM with the same weights.
    nodes += [helper.make_node("LSTM", ["x", "W0", "R0", "B0"], ["z"], name="LSTM_2")]
    ours = read_checkpoint(save(tmp_path / "a.onnx", nodes, initializers))
    expected = dict(first.state_dict())
    expected |= {f"lstm_1.{name}": t for name, t in second.state_dict().items()}
    assert_same_checkpoint(ours, expected)


@pytest.mark.parametrize("between", ["Identity", "Relu"])
def test_lstms_of_equal_sizes_are_layers_only_if_connected(tmp_path: Path, between: str) -> None:
    """Other exporters name all nodes of a model in one scope."""
    nodes, initializers, modules = [], [], [torch.nn.LSTM(4, 4) for _ in range(2)]
    for number, module in enumerate(modules):
        names = [f"{k}{number}" for k in "WRB"]
        parts = stacked(module, 0)
        initializers += [numpy_helper.from_array(a, n) for n, a in zip(names, parts.values(), strict=True)]
        nodes += [
            helper.make_node("LSTM", [f"x{number}", *names], [f"y{number}"], name=f"node_LSTM_{number}"),
            helper.make_node(between, [f"y{number}"], [f"x{number + 1}"]),
        ]
    ours = read_checkpoint(save(tmp_path / "a.onnx", nodes, initializers))
    connected = between == "Identity"
    assert set(ours) == {
        name if number == 0 else name.replace("_l0", "_l1") if connected else f"lstm_1.{name}"
        for number, module in enumerate(modules)
        for name in module.state_dict()
    }


def test_weights_in_constants_of_a_branch(tmp_path: Path) -> None:
    module = torch.nn.LSTM(2, 3)
    inner = [
        helper.make_node("Constant", [], [f"{k}_out"], value=numpy_helper.from_array(a))
        for k, a in stacked(module, 0).items()
    ]
    inner.append(helper.make_node("LSTM", ["x", "W_out", "R_out", "B_out"], ["y"], name="/a/LSTM"))
    branch = helper.make_graph(inner, "then", [], [])
    other = helper.make_graph([], "else", [], [])
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=other)
    ours = read_checkpoint(save(tmp_path / "a.onnx", [node], []))
    assert_same_checkpoint(ours, {f"a.{name}": t for name, t in module.state_dict().items()})


def test_packed_float_data_instead_of_raw_data(tmp_path: Path) -> None:
    values = np.arange(6.0, dtype=np.float32)
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [2, 3], values.tolist(), raw=False)
    assert tensor.float_data
    assert not tensor.raw_data
    ours = read_checkpoint(save(tmp_path / "a.onnx", [], [tensor]))
    assert_same_checkpoint(ours, {"w": torch.arange(6.0).reshape(2, 3)})


def test_omissions_are_reported(tmp_path: Path) -> None:
    text = numpy_helper.from_array(np.array(["hello"], object), "words")
    computed = helper.make_node("LSTM", ["x", "w", "r"], ["y"], name="/q/LSTM")
    quantized = helper.make_node("DynamicQuantizeLSTM", ["x"], ["z"], name="dq")
    ours = read_checkpoint(save(tmp_path / "a.onnx", [computed, quantized], [text]))
    assert ours == {}
    assert [line.split("'")[1] for line in ours.warnings] == ["words", "dq", "/q/LSTM"]


@pytest.mark.parametrize(
    "attributes",
    [
        {"direction": "reverse"},
        {"clip": 3.0},
        {"input_forget": 1},
        {"activations": ["Sigmoid", "Tanh", "Relu"]},
    ],
)
def test_unsupported_attributes(tmp_path: Path, attributes: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="/encoder/lstm/LSTM") as caught:
        read_checkpoint(write(tmp_path / "a.onnx", torch.nn.LSTM(2, 3), **attributes))
    assert caught.value.code == "onnx-unsupported"


def test_peepholes(tmp_path: Path) -> None:
    parts = stacked(torch.nn.LSTM(2, 3), 0)
    initializers = [numpy_helper.from_array(a, k) for k, a in parts.items()]
    node = helper.make_node("LSTM", ["x", "W", "R", "B", "", "", "", "P"], ["y"], name="LSTM")
    with pytest.raises(CheckpointError, match="peepholes"):
        read_checkpoint(save(tmp_path / "a.onnx", [node], initializers))


def test_exported_by_torch(tmp_path: Path) -> None:
    """The exporter determines the names of nodes."""
    pytest.importorskip("onnxscript", reason="torch.onnx.export needs onnxscript")
    module = torch.nn.LSTM(5, 4, 2, bidirectional=True)
    torch.onnx.export(torch.nn.Sequential(module), (torch.randn(3, 2, 5),), tmp_path / "a.onnx")
    ours = read_checkpoint(tmp_path / "a.onnx")
    for name, tensor in module.state_dict().items():
        assert any(key.endswith(name) for key in ours), name
        assert_same_bits(next(t for key, t in ours.items() if key.endswith(name)), tensor)


@pytest.mark.network
def test_silero_equals_the_cell_of_the_torchscript_file() -> None:
    """Two files from two exporters agree, which confirms the gate order."""
    ours = read_checkpoint(fetch_pinned("silero-vad", "silero_vad/data/silero_vad_16k_sequence.onnx"))
    script = read_checkpoint(fetch_pinned("silero-vad", "silero_vad/data/silero_vad.jit"))
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        theirs = torch.from_numpy(np.asarray(script[f"_model.decoder.rnn.{name}"]))
        assert_same_bits(ours[f"recurrent.{name}_l0"], theirs)
    model = onnx.load(fetch_pinned("silero-vad", "silero_vad/data/silero_vad_16k_sequence.onnx"))
    for initializer in model.graph.initializer:
        if not initializer.name.startswith("onnx::LSTM"):
            array = np.array(numpy_helper.to_array(initializer))
            assert_same_bits(ours[initializer.name], torch.from_numpy(array))
