"""Programs of torch.export.save become graphs with torch's values, without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils import _pytree

import jaxlstm
from jaxlstm.programs.graph import Graph, Node, TensorType, Tree, Value
from jaxlstm_converters.checkpoint import CheckpointError
from jaxlstm_converters.pt2._read_pt2 import read_pt2
from testing.checkpoints.case import CORPUS
from testing.exported import AUTO, Tagger, Tied, save
from testing.processes import run_python

LEAF = Tree("leaf")


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.export.ExportedProgram]:
    path = tmp_path_factory.mktemp("tagger") / "tagger.pt2"
    tokens = torch.randint(0, 11, (2, 7))
    return path, save(path, Tagger(), tokens, 2.0, dynamic_shapes=({0: AUTO}, None))


def test_tensors(tagger: tuple[Path, torch.export.ExportedProgram]) -> None:
    """Parameters, buffers and constants have torch's names and bits."""
    path, program = tagger
    _, tensors, _ = read_pt2(path)
    expected = {**program.state_dict, **program.constants}
    assert tensors.keys() == expected.keys()
    assert {"shift", "constant", "scale"} < tensors.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(tensors[name], tensor.detach().numpy(), strict=True)


def test_signature(tagger: tuple[Path, torch.export.ExportedProgram]) -> None:
    path, program = tagger
    graph, *_ = read_pt2(path)
    signature = program.graph_signature
    assert dict(graph.parameters) == dict(signature.inputs_to_parameters)
    assert dict(graph.buffers) == dict(signature.inputs_to_buffers)
    assert dict(graph.constants) == dict(signature.inputs_to_lifted_tensor_constants)
    (axis,) = graph.ranges
    assert [(i.name, i.type, i.constant) for i in graph.inputs] == [
        ("tokens", TensorType(np.dtype("int64"), (axis, 7)), None),
        ("factor", None, 2.0),
    ]
    assert graph.outputs == tuple(Value(str(name)) for name in signature.user_outputs)
    assert graph.in_tree == Tree("tuple", (Tree("tuple", (LEAF, LEAF)), Tree("dict")))
    state = Tree("list", (LEAF, Tree("tuple", (LEAF,))))
    assert graph.out_tree == Tree("dict", (LEAF, state), ("logits", "state"))


def node(graph: Graph, op: str) -> Node:
    """Return the only node with this operator."""
    (found,) = [node for node in graph.nodes if node.op == op]
    return found


def test_nodes(tagger: tuple[Path, torch.export.ExportedProgram]) -> None:
    path, program = tagger
    graph, *_ = read_pt2(path)
    (axis,) = graph.ranges
    lstm = node(graph, "aten.lstm.input")
    assert lstm.module_path == "lstm"
    names = [f"p_lstm_{name}" for name in Tagger().lstm._flat_weights_names]
    assert lstm.kwargs["params"] == tuple(map(Value, names))
    assert (lstm.kwargs["num_layers"], lstm.kwargs["dropout"], lstm.kwargs["batch_first"]) == (1, 0.0, True)
    assert [lstm.types[str(name)].shape for name in lstm.outputs] == [
        (axis, 7, 6),
        (2, axis, 3),
        (2, axis, 3),
    ]
    zeros = next(n for n in graph.nodes if n.op == "aten.zeros.default")
    (size,) = node(graph, "aten.sym_size.int").outputs
    assert zeros.kwargs == {
        "size": (2, Value(str(size)), 3),
        "dtype": np.dtype("float32"),
        "device": None,
        "pin_memory": False,
    }
    calls = [n for n in program.graph.nodes if n.op == "call_function" and "getitem" not in str(n.target)]
    assert [n.name for n in graph.nodes] == [n.name for n in calls]
    assert [f"torch.ops.{n.op}" for n in graph.nodes] == [f"torch.ops.{n.target}" for n in calls]


def test_tied_and_strided_weights(tmp_path: Path) -> None:
    program = save(tmp_path / "a.pt2", Tied(), torch.randn(2, 3))
    graph, tensors, _ = read_pt2(tmp_path / "a.pt2")
    assert tensors["encoder.weight"] is tensors["decoder.weight"]
    for name, tensor in program.state_dict.items():
        np.testing.assert_array_equal(tensors[name], tensor.detach().numpy(), strict=True)
    assert [n.module_path for n in graph.nodes if "linear" in n.op] == ["encoder", "encoder", "decoder"]


class Arguments(nn.Module):
    """Operators with lists, dtypes, optional tensors, infinities and several results."""

    def forward(self, x: torch.Tensor, *, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        first, second = torch.split(x, [1, 2])
        clean = x.masked_fill(mask, float("-inf")).softmax(-1, dtype=torch.float64)
        picked = x[:, torch.tensor([0, 1])]
        values, _ = x.max(dim=1)
        scaled = x.view(x.shape[1] // 2 * 2, -1) * (x.shape[1] / 2)
        return {"a": first, "b": second, "c": clean, "d": picked, "e": values, "f": scaled}


def test_arguments(tmp_path: Path) -> None:
    x = torch.randn(3, 4)
    save(tmp_path / "a.pt2", Arguments(), x, kwargs={"mask": x > 0})
    graph, *_ = read_pt2(tmp_path / "a.pt2")
    split = node(graph, "aten.split_with_sizes.default")
    assert split.kwargs["split_sizes"] == (1, 2)
    assert len(split.outputs) == 1
    assert len(split.outputs[0] or ()) == 2
    assert node(graph, "aten.masked_fill.Scalar").kwargs["value"] == float("-inf")
    assert node(graph, "aten.softmax.int").kwargs["dtype"] == np.dtype("float64")
    assert node(graph, "aten.index.Tensor").kwargs["indices"][0] is None  # type: ignore[index]
    assert len(node(graph, "aten.max.dim").outputs) == 2
    assert graph.in_tree == Tree("tuple", (Tree("tuple", (LEAF,)), Tree("dict", (LEAF,), ("mask",))))


class Point(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor


class Results(nn.Module):
    """Results in a namedtuple, with None and a number."""

    def forward(self, x: torch.Tensor) -> Any:
        with torch.no_grad():
            y = x * 2
        return Point(x + 1, y), None, 3


def test_results(tmp_path: Path) -> None:
    _pytree._register_namedtuple(Point, serialized_type_name="tests.Point")
    save(tmp_path / "a.pt2", Results(), torch.ones(2))
    graph, *_ = read_pt2(tmp_path / "a.pt2")
    point = Tree("namedtuple", (LEAF, LEAF), ("x", "y"), "tests.Point")
    assert graph.out_tree == Tree("tuple", (point, LEAF, LEAF))
    assert graph.outputs[2:] == (None, 3)


def test_read_checkpoint(tagger: tuple[Path, torch.export.ExportedProgram]) -> None:
    """The tensors of a program are a checkpoint, and `load` takes batch_first from the graph."""
    path, program = tagger
    checkpoint = jaxlstm.read_checkpoint(path)
    assert checkpoint.keys() == {**program.state_dict, **program.constants}.keys()
    assert checkpoint.hints == {"lstm.": {"batch_first": True, "dropout": 0.0}}
    expected = jaxlstm.LSTMConfig(4, 3, batch_first=True, bidirectional=True)
    assert jaxlstm.find_lstms(path) == {"lstm.": expected}
    assert jaxlstm.load(path)[1] == expected


def test_other_files_are_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1)}, tmp_path / "a.pt")
    np.save(tmp_path / "a.npy", np.ones(1))
    for name in ("a.pt", "a.npy"):
        with pytest.raises(CheckpointError) as caught:
            read_pt2(tmp_path / name)
        assert caught.value.code == "unknown-format"


def test_reading_imports_neither_torch_nor_jax(tagger: tuple[Path, torch.export.ExportedProgram]) -> None:
    code = (
        "import sys\nfrom jaxlstm_converters.pt2._read_pt2 import read_pt2\nread_pt2(sys.argv[1])\n"
        "print([m for m in ('torch', 'jax', 'flax') if m in sys.modules])"
    )
    assert run_python("-c", code, tagger[0]).strip() == "[]"


def test_final_states_with_a_wrong_type() -> None:
    """Types that torch recorded wrongly up to 2.12 are left out, and so are dependent types."""
    graph, *_ = read_pt2(CORPUS / "pt2-2.9.pt2")
    assert node(graph, "aten.lstm.input").types.keys() == {"getitem"}
    graph, *_ = read_pt2(CORPUS / "pt2-2.13.pt2")
    assert node(graph, "aten.lstm.input").types.keys() == {"getitem", "getitem_1", "getitem_2"}
