"""Files of torch 2.6 to 2.13, of one model with the same weights, give the same program.

The files are also seeds of the fuzzer. Each was written by its torch version:

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(2, 2, batch_first=True)
            self.out = nn.Linear(2, 2, bias=False)
            self.tied = nn.Linear(2, 2, bias=False)
            self.tied.weight = self.out.weight
            self.register_buffer("scale", torch.tensor([1.0, 2.0]), persistent=False)

        def forward(self, x, gain=None):
            y, (h, c) = self.lstm(x, (x.new_zeros(1, x.shape[0], 2),) * 2)
            return {"y": self.tied(self.out(y) * self.scale + torch.tensor([3.0, 4.0])), "state": (h, c)}

    torch.manual_seed(0)
    model, x = Model().eval(), torch.randn(2, 3, 2)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (x, 2.0), dynamic_shapes=({0: batch}, None), strict=False)
    torch.export.save(program, path)
"""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest
import torch

import jaxlstm
from jaxlstm.programs.graph import Graph
from jaxlstm_converters.pt2._read_pt2 import read_pt2
from testing.checkpoints.case import CORPUS

# torch 2.6 and 2.7 write an archive without folders, torch 2.8 pickled weights, later versions raw bytes.
VERSIONS = ("2.6", "2.8", "2.9", "2.13")
NEWEST = CORPUS / "pt2-2.13.pt2"

each_version = pytest.mark.parametrize("version", VERSIONS)


def without_versions(graph: Graph) -> Graph:
    """Return the graph with the parts that differ between versions of torch made equal."""
    (axis,) = graph.ranges
    nodes = []
    for node in graph.nodes:
        types = {
            name: replace(type_, shape=tuple("axis" if size == axis else size for size in type_.shape))
            for name, type_ in node.types.items()
        }
        if node.op == "aten.lstm.input":
            types = {"getitem": types["getitem"]}
        nodes.append(replace(node, name=str(node.outputs[0]), types=types))
    inputs = tuple(replace(item, type=None) for item in graph.inputs)
    return replace(graph, nodes=tuple(nodes), inputs=inputs, ranges={"axis": graph.ranges[axis]})


@each_version
def test_graph_and_tensors(version: str) -> None:
    path = CORPUS / f"pt2-{version}.pt2"
    graph, tensors, _ = read_pt2(path)
    expected_graph, expected, _ = read_pt2(NEWEST)
    assert without_versions(graph) == without_versions(expected_graph)
    assert tensors.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(tensors[name], array, strict=True)
    assert tensors["out.weight"] is tensors["tied.weight"]
    checkpoint = jaxlstm.read_checkpoint(path)
    assert checkpoint.container == "pt2"
    assert checkpoint["out.weight"].identity == checkpoint["tied.weight"].identity
    assert list(jaxlstm.find_lstms(path)) == ["lstm."]


@each_version
def test_results(version: str) -> None:
    """The program gives torch's results at another batch size."""
    x = np.random.default_rng(0).normal(size=(5, 3, 2)).astype(np.float32)
    with torch.no_grad():
        expected = torch.export.load(NEWEST).module()(torch.from_numpy(x), 2.0)
    program = jaxlstm.load_program(CORPUS / f"pt2-{version}.pt2")
    actual = program(program.params, x, 2.0)
    assert actual.keys() == expected.keys()
    for ours, theirs in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5, atol=1e-6)
