"""ONNX LSTM nodes become torch's parameters, gate by gate; files that are damaged or hostile are refused."""

import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import jaxlstm
from jaxlstm_converters.checkpoint import CheckpointError, read_checkpoint
from testing.checkpoints.compare import assert_same_bits, assert_same_checkpoint
from testing.onnx_weights import onnx_weights


def lstm_node(
    number: int, module: torch.nn.LSTM, *, layer: int = 0, more: tuple[str, ...] = (), **fields: Any
) -> tuple[Any, list[TensorProto]]:
    """Return a node from `x{number}` to `y{number}`, and its initializers W, R and B."""
    parts = onnx_weights(module.state_dict(), layer)
    fields.setdefault("hidden_size", module.hidden_size)
    if module.bidirectional:
        fields["direction"] = "bidirectional"
    names = [f"x{number}", *(f"{part}{number}" for part in parts), *more]
    node = helper.make_node("LSTM", names, [f"y{number}"], **fields)
    return node, [numpy_helper.from_array(array, f"{part}{number}") for part, array in parts.items()]


def save(path: Path, nodes: list[Any], initializers: list[Any]) -> Path:
    graph = helper.make_graph(nodes, "g", [], [], initializers)
    onnx.save(helper.make_model(graph), path)
    return path


def write(path: Path, module: torch.nn.LSTM, between: str = "Reshape", **given: Any) -> Path:
    """Write one node for each layer, named as torch.onnx.export names them, and a weight of another layer."""
    nodes, initializers = [], [numpy_helper.from_array(np.arange(6.0).reshape(2, 3), "head.weight")]
    for layer in range(module.num_layers):
        name = f"/encoder/lstm/LSTM_{layer}" if layer else "/encoder/lstm/LSTM"
        fields: dict[str, Any] = {"name": name} | given
        node, tensors = lstm_node(layer, module, layer=layer, **fields)
        nodes += [node, helper.make_node(between, [f"y{layer}"], [f"x{layer + 1}"])]
        initializers += tensors
    return save(path, nodes, initializers)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_layers(tmp_path: Path, bidirectional: bool, bias: bool, dtype: torch.dtype) -> None:
    module = torch.nn.LSTM(5, 4, 3, bias=bias, bidirectional=bidirectional, dtype=dtype)
    ours = read_checkpoint(write(tmp_path / "a.onnx", module))
    expected = {f"encoder.lstm.{name}": t for name, t in module.state_dict().items()}
    head = torch.arange(6.0, dtype=torch.float64).reshape(2, 3)
    assert_same_checkpoint(ours, expected | {"head.weight": head})
    assert (ours.container, ours.warnings) == ("ONNX", [])
    params, config = jaxlstm.load(ours.path, batch_first=False, dropout=0.0)
    assert (config.num_layers, config.bidirectional, config.bias) == (3, bidirectional, bias)
    assert len(params) == len(expected)


@pytest.mark.parametrize("one_file", [True, False])
def test_data_in_other_files(tmp_path: Path, one_file: bool) -> None:
    inside = write(tmp_path / "inside.onnx", torch.nn.LSTM(5, 4, bidirectional=True))
    options = {"save_as_external_data": True, "all_tensors_to_one_file": one_file, "size_threshold": 0}
    onnx.save(onnx.load(inside), tmp_path / "a.onnx", **options)
    assert len(list(tmp_path.iterdir())) == (3 if one_file else 6)
    expected = {name: np.asarray(tensor) for name, tensor in read_checkpoint(inside).items()}
    assert_same_checkpoint(read_checkpoint(tmp_path / "a.onnx"), expected)


def test_more_files_than_a_process_may_open(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    inside = save(tmp_path / "a.onnx", [], [numpy_helper.from_array(np.ones(1), f"w{k}") for k in range(60)])
    options = {"save_as_external_data": True, "all_tensors_to_one_file": False, "size_threshold": 0}
    onnx.save(onnx.load(inside), inside, **options)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with inside.open() as file:
        resource.setrlimit(resource.RLIMIT_NOFILE, (file.fileno() + 40, limits[1]))
        try:
            assert len(read_checkpoint(inside)) == 60
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("between", ["Identity", "Relu"])
def test_lstms_of_equal_sizes_are_layers_only_if_connected(tmp_path: Path, between: str) -> None:
    module = torch.nn.LSTM(4, 4, 2)
    ours = read_checkpoint(write(tmp_path / "a.onnx", module, between, name="node_LSTM_0"))
    second = [n for n in ours if n != "head.weight"][4:]
    assert second == [
        name if between == "Identity" else "lstm_1." + name.replace("_l1", "_l0")
        for name in list(module.state_dict())[4:]
    ]


def test_lstms_without_outputs_are_not_connected(tmp_path: Path) -> None:
    """An unused output has the name ""; the input of the second LSTM is not computed by the first."""
    (first, tensors), (second, others) = (lstm_node(k, torch.nn.LSTM(4, 4), name="LSTM") for k in (0, 1))
    first.output[:] = ["", "h"]
    ours = read_checkpoint(save(tmp_path / "a.onnx", [first, second], tensors + others))
    assert [name for name in ours if "_ih" in name and "weight" in name] == [
        "weight_ih_l0",
        "lstm_1.weight_ih_l0",
    ]


def test_one_lstm_called_twice_and_module_paths_of_the_newer_exporter(tmp_path: Path) -> None:
    module = torch.nn.LSTM(2, 3)
    node, tensors = lstm_node(0, module, name="node_lstm__2", layout=1)
    node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value="['', 'a', 'a.rnn', 'lstm']")
    again = helper.make_node("LSTM", ["y0", "W0", "R0", "B0"], ["z"], name="LSTM_2")
    ours = read_checkpoint(save(tmp_path / "a.onnx", [node, again], tensors))
    assert_same_checkpoint(ours, {f"a.rnn.{name}": t for name, t in module.state_dict().items()})
    assert ours.hints == {"a.rnn.": {"batch_first": True, "dropout": 0.0}}


def test_weights_in_constants_of_a_branch(tmp_path: Path) -> None:
    module = torch.nn.LSTM(2, 3)
    node, tensors = lstm_node(0, module, name="/a/LSTM")
    tensors.append(numpy_helper.from_array(np.ones(2), "kept"))
    inner = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in tensors]
    branch = helper.make_graph([*inner, node], "then", [], [])
    other = helper.make_graph([], "else", [], [])
    choice = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=other)
    ours = read_checkpoint(save(tmp_path / "a.onnx", [choice], []))
    assert_same_checkpoint(ours, {f"a.{n}": t for n, t in module.state_dict().items()} | {"kept": np.ones(2)})


def test_omissions_are_reported(tmp_path: Path) -> None:
    words = numpy_helper.from_array(np.array(["hello"], object), "words")
    computed = helper.make_node("LSTM", ["x", "w", "r"], ["y"], name="/q/LSTM")
    model = onnx.load(save(tmp_path / "a.onnx", [computed], [words]))
    opsets = [helper.make_opsetid("", 20)]
    model.functions.append(helper.make_function("d", "f", ["x"], ["y"], [computed], opsets))
    model.graph.sparse_initializer.add()
    onnx.save(model, tmp_path / "a.onnx")
    ours = read_checkpoint(tmp_path / "a.onnx")
    assert ours == {}
    parts = ["'words'", "'/q/LSTM'", "sparse", "inline the functions"]
    assert [part in line for part, line in zip(parts, ours.warnings, strict=True)] == [True] * 4


@pytest.mark.parametrize(
    "fields",
    [
        {"direction": "reverse"},
        {"clip": 3.0},
        {"input_forget": 1},
        {"activations": ["Sigmoid", "Tanh", "Relu"]},
        {"hidden_size": 4},
        {"hidden_size": "4" * 1000},
        {"domain": "theirs"},
        {"more": ("", "", "", "P")},
        {"more": ("", "h")},
    ],
    ids=str,
)
def test_unsupported_nodes(tmp_path: Path, fields: dict[str, Any]) -> None:
    """P are peepholes, and h an initial state of another size: torch's newer exporter drops proj_size."""
    node, tensors = lstm_node(0, torch.nn.LSTM(2, 3), name="/encoder/LSTM", **fields)
    tensors.append(numpy_helper.from_array(np.zeros((1, 2, 5), np.float32), "h"))
    with pytest.raises(CheckpointError, match="/encoder/LSTM") as caught:
        read_checkpoint(save(tmp_path / "a.onnx", [node], tensors))
    assert caught.value.code == "onnx-unsupported"
    assert len(str(caught.value)) < 600


def outside(location: str, **entries: str) -> TensorProto:
    tensor = TensorProto(name="w", dims=(2, 2), data_type=1, data_location="EXTERNAL")
    for key, value in ({"location": location} | entries).items():
        tensor.external_data.add(key=key, value=value)
    return tensor


GOOD = numpy_helper.from_array(np.ones((2, 2), np.float32), "w")


@pytest.mark.parametrize(
    ("tensors", "code"),
    [
        ([GOOD, GOOD], "duplicate-name"),
        ([TensorProto(name="w", dims=(3, 2), data_type=1, raw_data=GOOD.raw_data)], "onnx-malformed"),
        ([TensorProto(name="w", dims=(-1, 2), data_type=1, raw_data=GOOD.raw_data)], "onnx-malformed"),
        ([TensorProto(name="w", dims=(2, 2), data_type=1)], "onnx-malformed"),
        ([TensorProto(name="w", dims=(2, 2), data_type=99)], "onnx-malformed"),
        ([outside("../secret")], "shard-path"),
        ([outside("/etc/passwd")], "shard-path"),
        ([outside("link")], "shard-path"),
        ([outside("none")], "shard-mismatch"),
        ([outside("data", offset="8")], "onnx-malformed"),
        ([outside("data", offset="x")], "onnx-malformed"),
        ([outside("data", offset="-8")], "truncated"),
        ([outside("data", length=str(1 << 30))], "tensor-budget"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_hostile_tensors(tmp_path: Path, tensors: list[TensorProto], code: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(GOOD.raw_data)
    (folder / "data").write_bytes(GOOD.raw_data)
    (folder / "link").symlink_to("../secret")
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(save(folder / "a.onnx", [], tensors))
    assert caught.value.code == code


def test_files_that_are_no_models(tmp_path: Path) -> None:
    path = save(tmp_path / "a.onnx", [], [GOOD])
    whole = path.read_bytes()
    for data in (whole[:-3], whole + b"\x3a" + b"\xff" * 20, whole.replace(b"\x42\x01w", b"\x42\x01\xff")):
        path.write_bytes(data)
        with pytest.raises(CheckpointError) as caught:
            read_checkpoint(path)
        assert caught.value.code == "onnx-malformed"


@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.filterwarnings("ignore")
def test_exported_by_torch(tmp_path: Path, dynamo: bool) -> None:
    """The exporter determines the names of nodes, the order of gates, and where the data is."""
    inner = torch.nn.Sequential(
        OrderedDict(net=torch.nn.Sequential(torch.nn.LSTM(5, 4, 2, bidirectional=True)))
    )
    module = torch.nn.Sequential(inner)
    args = (torch.randn(3, 2, 5),)
    torch.onnx.export(module, args, tmp_path / "a.onnx", dynamo=dynamo, verbose=False)
    ours = read_checkpoint(tmp_path / "a.onnx")
    for name, tensor in module.state_dict().items():
        assert_same_bits(ours[name], tensor)


@pytest.mark.parametrize("batch", [2, torch.export.Dim.AUTO])
@pytest.mark.filterwarnings("ignore")
def test_proj_size_of_the_newer_exporter(tmp_path: Path, batch: Any) -> None:
    """It cuts the weights. The initial states are initializers, or are computed if the batch is free."""
    module, shapes = torch.nn.LSTM(5, 4, proj_size=2), ({1: batch},)
    args = (torch.randn(3, 2, 5),)
    torch.onnx.export(module, args, tmp_path / "a.onnx", dynamo=True, verbose=False, dynamic_shapes=shapes)
    with pytest.raises(CheckpointError, match="states of another size"):
        read_checkpoint(tmp_path / "a.onnx")


def test_without_the_onnx_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.onnx", [], [GOOD])
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'jaxlstm\[onnx\]'"):
        read_checkpoint(path)
