"""ONNX LSTM nodes become torch's parameters, gate by gate."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from jaxlstm_converters.checkpoint import CheckpointError, read_checkpoint
from testing.checkpoints.compare import assert_same_bits, assert_same_checkpoint


def to_onnx(rows: torch.Tensor) -> np.ndarray:
    """Reorder torch's gates i, f, g, o to ONNX's i, o, f, c."""
    i, f, g, o = rows.detach().chunk(4)
    return torch.cat([i, o, f, g]).numpy()


def stacked(module: torch.nn.LSTM, layer: int) -> dict[str, np.ndarray]:
    suffixes = [f"_l{layer}"] + ([f"_l{layer}_reverse"] if module.bidirectional else [])
    state = module.state_dict()
    made = {
        "W": np.stack([to_onnx(state["weight_ih" + s]) for s in suffixes]),
        "R": np.stack([to_onnx(state["weight_hh" + s]) for s in suffixes]),
    }
    if module.bias:
        made["B"] = np.stack(
            [np.concatenate([to_onnx(state["bias_ih" + s]), to_onnx(state["bias_hh" + s])]) for s in suffixes]
        )
    return made


def write(path: Path, module: torch.nn.LSTM, name: str = "/encoder/lstm/LSTM", **attributes: Any) -> Path:
    """Write one LSTM node per layer, named as torch.onnx.export names them."""
    nodes, initializers = [], []
    for layer in range(module.num_layers):
        parts = stacked(module, layer)
        initializers += [numpy_helper.from_array(a, f"{k}{layer}") for k, a in parts.items()]
        if layer:  # the output (T, D, B, H) becomes (T, B, D * H)
            nodes += [
                helper.make_node("Transpose", [f"y{layer - 1}"], [f"t{layer}"], perm=[0, 2, 1, 3]),
                helper.make_node("Reshape", [f"t{layer}", "shape"], [f"x{layer}"]),
            ]
        suffix = f"_{layer}" if layer else ""
        nodes.append(
            helper.make_node(
                "LSTM",
                [f"x{layer}", *(f"{k}{layer}" for k in parts)],
                [f"y{layer}"],
                name=name and name + suffix,
                hidden_size=module.hidden_size,
                **({"direction": "bidirectional"} if module.bidirectional else {}) | attributes,
            )
        )
    initializers.append(numpy_helper.from_array(np.arange(6.0).reshape(2, 3), "head.weight"))
    return save(path, nodes, initializers)


def save(path: Path, nodes: list[Any], initializers: list[Any]) -> Path:
    graph = helper.make_graph(nodes, "g", [], [], initializers)
    onnx.save(helper.make_model(graph), path)
    return path


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


@pytest.mark.parametrize("one_file", [True, False])
def test_external_data(tmp_path: Path, one_file: bool) -> None:
    """The data of large models is in files beside the model; the reader opens them on demand."""
    module = torch.nn.LSTM(5, 4, bidirectional=True)
    model = onnx.load(write(tmp_path / "inside.onnx", module))
    onnx.save(
        model,
        tmp_path / "a.onnx",
        save_as_external_data=True,
        all_tensors_to_one_file=one_file,
        size_threshold=0,
    )
    assert len(list(tmp_path.iterdir())) == (3 if one_file else 6)
    assert_same_checkpoint(
        read_checkpoint(tmp_path / "a.onnx"),
        {n: torch.from_numpy(np.asarray(t)) for n, t in read_checkpoint(tmp_path / "inside.onnx").items()},
    )


def test_batch_first_hint(tmp_path: Path) -> None:
    ours = read_checkpoint(write(tmp_path / "a.onnx", torch.nn.LSTM(2, 3), layout=1))
    assert ours.hints == {"encoder.lstm.": {"batch_first": True, "dropout": 0.0}}


def lstm_node(number: int, module: torch.nn.LSTM, inputs: str, output: str, **fields: Any) -> tuple[Any, Any]:
    """Return a node with the weights W, R and B of a number, and the initializers."""
    names = [f"{k}{number}" for k in "WRB"]
    parts = stacked(module, 0)
    node = helper.make_node("LSTM", [inputs, *names, *fields.pop("more", [])], [output], **fields)
    return node, [numpy_helper.from_array(a, n) for n, a in zip(names, parts.values(), strict=True)]


def test_two_independent_lstms_in_one_scope(tmp_path: Path) -> None:
    first, second = torch.nn.LSTM(5, 4), torch.nn.LSTM(7, 4)
    one, tensors = lstm_node(0, first, "x", "y", name="LSTM_0")
    two, more = lstm_node(1, second, "x", "y", name="LSTM_1")
    # A second LSTM with the same weights.
    again = helper.make_node("LSTM", ["x", "W0", "R0", "B0"], ["z"], name="LSTM_2")
    ours = read_checkpoint(save(tmp_path / "a.onnx", [one, two, again], [*tensors, *more]))
    expected = dict(first.state_dict())
    expected |= {f"lstm_1.{name}": t for name, t in second.state_dict().items()}
    assert_same_checkpoint(ours, expected)


@pytest.mark.parametrize("between", ["Identity", "Relu"])
def test_lstms_of_equal_sizes_are_layers_only_if_connected(tmp_path: Path, between: str) -> None:
    """Other exporters name all nodes of a model in one scope."""
    modules = [torch.nn.LSTM(4, 4) for _ in range(2)]
    nodes, initializers = [], []
    for number, module in enumerate(modules):
        node, tensors = lstm_node(number, module, f"x{number}", f"y{number}", name=f"node_LSTM_{number}")
        nodes += [node, helper.make_node(between, [f"y{number}"], [f"x{number + 1}"])]
        initializers += tensors
    ours = read_checkpoint(save(tmp_path / "a.onnx", nodes, initializers))
    connected = between == "Identity"
    assert set(ours) == {
        name if number == 0 else name.replace("_l0", "_l1") if connected else f"lstm_1.{name}"
        for number, module in enumerate(modules)
        for name in module.state_dict()
    }


def test_module_paths_of_the_newer_exporter(tmp_path: Path) -> None:
    """torch's newer exporter numbers its nodes and stores the path of the module as metadata."""
    module = torch.nn.LSTM(2, 3)
    node, tensors = lstm_node(0, module, "x", "y", name="node_lstm__2")
    node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value="['', 'a', 'a.rnn', 'lstm']")
    ours = read_checkpoint(save(tmp_path / "a.onnx", [node], tensors))
    assert_same_checkpoint(ours, {f"a.rnn.{name}": t for name, t in module.state_dict().items()})


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


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "complex64"])
def test_numbers_instead_of_raw_data(tmp_path: Path, dtype: str) -> None:
    values = (np.arange(6) * 3).astype(dtype).reshape(2, 3)
    code = helper.np_dtype_to_tensor_dtype(values.dtype)
    tensor = helper.make_tensor("w", code, [2, 3], values.reshape(-1).tolist(), raw=False)
    assert not tensor.raw_data
    ours = read_checkpoint(save(tmp_path / "a.onnx", [], [tensor]))
    assert_same_checkpoint(ours, {"w": torch.from_numpy(values)})


def test_numbers_keep_the_bits_of_signalling_nans(tmp_path: Path) -> None:
    bits = np.array([0x7F800001, 0xFF812345], np.uint32)
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2])
    tensor.MergeFromString(b"\x22\x08" + bits.tobytes())  # float_data
    (ours,) = read_checkpoint(save(tmp_path / "a.onnx", [], [tensor])).values()
    np.testing.assert_array_equal(np.asarray(ours).view(np.uint32), bits)


def test_omissions_are_reported(tmp_path: Path) -> None:
    words = numpy_helper.from_array(np.array(["hello"], object), "words")
    halves = helper.make_tensor("halves", TensorProto.FLOAT16, [1], [1.0], raw=False)
    computed = helper.make_node("LSTM", ["x", "w", "r"], ["y"], name="/q/LSTM")
    quantized = helper.make_node("DynamicQuantizeLSTM", ["x"], ["z"], name="dq")
    model = onnx.load(save(tmp_path / "a.onnx", [computed, quantized], [words, halves]))
    indices = numpy_helper.from_array(np.zeros(1, np.int64))
    sparse = helper.make_sparse_tensor(helper.make_tensor("sp", 1, [1], [1.0]), indices, [3])
    model.graph.sparse_initializer.append(sparse)
    opsets = [helper.make_opsetid("", 20)]
    model.functions.append(helper.make_function("d", "f", ["x"], ["y"], [computed], opsets))
    onnx.save(model, tmp_path / "a.onnx")
    ours = read_checkpoint(tmp_path / "a.onnx")
    assert ours == {}
    parts = ["'words'", "'halves'", "'sp'", "'dq'", "inlined functions", "'/q/LSTM'"]
    assert [part in line for part, line in zip(parts, ours.warnings, strict=True)] == [True] * 6


@pytest.mark.parametrize(
    "fields",
    [
        {"direction": "reverse"},
        {"clip": 3.0},
        {"input_forget": 1},
        {"activations": ["Sigmoid", "Tanh", "Relu"]},
        {"hidden_size": 4},
        {"domain": "theirs"},
        {"more": ["", "", "", "P"]},
        {"more": ["", "h"]},
    ],
    ids=str,
)
def test_unsupported_nodes(tmp_path: Path, fields: dict[str, Any]) -> None:
    """P are peepholes, and h an initial state of another size: torch's newer exporter drops proj_size."""
    node, tensors = lstm_node(0, torch.nn.LSTM(2, 3), "x", "y", name="/encoder/LSTM", **fields)
    tensors.append(numpy_helper.from_array(np.zeros((1, 2, 5), np.float32), "h"))
    with pytest.raises(CheckpointError, match="/encoder/LSTM") as caught:
        read_checkpoint(save(tmp_path / "a.onnx", [node], tensors))
    assert caught.value.code == "onnx-unsupported"


@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.filterwarnings("ignore")
def test_exported_by_torch(tmp_path: Path, dynamo: bool) -> None:
    """The exporter determines the names of nodes, the order of gates, and where the data is."""
    pytest.importorskip("onnxscript", reason="torch.onnx.export needs onnxscript")
    module = torch.nn.Sequential(torch.nn.LSTM(5, 4, 2, bidirectional=True))
    args = (torch.randn(3, 2, 5),)
    torch.onnx.export(module, args, tmp_path / "a.onnx", dynamo=dynamo, verbose=False)
    ours = read_checkpoint(tmp_path / "a.onnx")
    for name, tensor in module.state_dict().items():
        assert_same_bits(ours[name], tensor)


def test_without_the_onnx_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.onnx", torch.nn.LSTM(2, 3))
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'jaxlstm\[onnx\]'"):
        read_checkpoint(path)
