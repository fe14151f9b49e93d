"""Programs of torch.export.save become graphs with torch's values, without torch."""

from pathlib import Path

import numpy as np
import pytest
import torch

import jaxlstm
from jaxlstm.programs.graph import TensorType, Tree, Value
from jaxlstm_converters.checkpoint import CheckpointError
from jaxlstm_converters.pt2._read_pt2 import read_pt2
from testing.exported import AUTO, Tagger, save

LEAF = Tree("leaf")


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.export.ExportedProgram]:
    path = tmp_path_factory.mktemp("tagger") / "tagger.pt2"
    tokens = torch.randint(0, 11, (2, 7))
    return path, save(path, Tagger(), tokens, 2.0, dynamic_shapes=({0: AUTO}, None))


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
    (tmp_path / "a.txt").write_text("text")
    for name in ("a.pt", "a.txt"):
        with pytest.raises(CheckpointError, match=r"\[unknown-format"):
            read_pt2(tmp_path / name)
