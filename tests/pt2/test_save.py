"""Files of torch 2.6 to 2.13 give the same program, and Program.save writes what torch and load_program open.

The files hold one model with the same weights, and are also seeds of the fuzzer. Each was written by its
version of torch:

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

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch

import jaxlstm
from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.graph import Graph, ModuleCall
from jaxlstm_converters.pt2._read_pt2 import read_pt2
from testing.checkpoints.seed import CORPUS
from testing.exported import save
from testing.gradients import assert_close
from testing.graphs import to_numpy
from testing.modules import module_of

# torch 2.6 and 2.7 write an archive without folders, torch 2.8 pickled weights, later versions raw bytes.
VERSIONS = ("2.6", "2.8", "2.9", "2.13")
NEWEST = CORPUS / "pt2-2.13.pt2"
X = np.random.default_rng(0).normal(size=(5, 3, 2)).astype(np.float32)


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
        calls = tuple(ModuleCall("", call.path, "", "") for call in node.calls)
        nodes.append(replace(node, name=str(node.outputs[0]), types=types, calls=calls))
    inputs = tuple(replace(item, type=None) for item in graph.inputs)
    return replace(graph, nodes=tuple(nodes), inputs=inputs, ranges={"axis": graph.ranges[axis]})


@pytest.mark.parametrize("version", VERSIONS)
def test_graph_and_tensors(version: str) -> None:
    path = CORPUS / f"pt2-{version}.pt2"
    graph, tensors, *_ = read_pt2(path)
    expected_graph, expected, *_ = read_pt2(NEWEST)
    assert without_versions(graph) == without_versions(expected_graph)
    assert tensors.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(tensors[name], array, strict=True)
    assert tensors["out.weight"] is tensors["tied.weight"]
    checkpoint = jaxlstm.read_checkpoint(path)
    assert checkpoint.container == "pt2"
    assert checkpoint["out.weight"].identity == checkpoint["tied.weight"].identity
    assert list(jaxlstm.find_lstms(path)) == ["lstm."]


def torch_results(path: Path) -> Any:
    """Return the results of the program in torch."""
    with torch.no_grad():
        return jax.tree.map(to_numpy, torch.export.load(path).module()(torch.from_numpy(X), 2.0))


@pytest.mark.parametrize("version", VERSIONS)
def test_results(version: str, tmp_path: Path) -> None:
    """The program gives torch's results at another batch size, and so does torch from the file it writes."""
    program, expected = jaxlstm.load_program(CORPUS / f"pt2-{version}.pt2"), torch_results(NEWEST)
    assert_close(program(program.params, X, 2.0), expected, 1e-6)
    program.save(tmp_path / "saved.pt2")
    jax.tree.map(np.testing.assert_array_equal, torch_results(tmp_path / "saved.pt2"), expected)


def test_new_parameters(tmp_path: Path) -> None:
    program = jaxlstm.load_program(NEWEST)
    params = {name: value * 0.5 for name, value in program.params.items()}
    program.save(tmp_path / "a.pt2", params, buffers={"scale": np.array([3.0, -1.0], np.float32)})
    again = jaxlstm.load_program(tmp_path / "a.pt2")
    for name, value in params.items():
        np.testing.assert_array_equal(again.params[name], value, strict=True)
    assert_close(again(again.params, X, 2.0), torch_results(tmp_path / "a.pt2"), 1e-6)


def test_tied_parameters_stay_tied(tmp_path: Path) -> None:
    """They are one parameter of the program, so training cannot separate them."""
    program = jaxlstm.load_program(NEWEST)
    (alias,), (name,) = program.tied.keys(), program.tied.values()
    assert {alias, name} == {"out.weight", "tied.weight"}
    assert alias not in program.params
    program.save(tmp_path / "tied.pt2", {**program.params, name: np.full((2, 2), 3, np.float32)})
    checkpoint = jaxlstm.read_checkpoint(tmp_path / "tied.pt2")
    assert checkpoint[alias].identity == checkpoint[name].identity
    np.testing.assert_array_equal(checkpoint[alias], 3)
    state = torch.export.load(tmp_path / "tied.pt2").state_dict
    assert state[alias].data_ptr() == state[name].data_ptr()
    # Other parameters stay apart, also with equal values.
    zeros = {name: np.zeros_like(value) for name, value in program.params.items()}
    program.save(tmp_path / "zeros.pt2", zeros)
    assert jaxlstm.load_program(tmp_path / "zeros.pt2").tied == program.tied


def test_dtypes(tmp_path: Path) -> None:
    """Buffers keep their dtypes, although JAX holds int64 as int32. One of them is not persistent."""
    buffers = {
        "narrow": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "empty": torch.ones(0, 3, dtype=torch.int8),
        "count": torch.tensor(7),
        "flags": torch.tensor([True, False]),
        "turned": torch.arange(6.0).reshape(2, 3).T,
        "row": torch.arange(20.0).reshape(5, 4)[2],
    }
    model = module_of(lambda self, x: x + self.hidden * torch.tensor([1.0, 2.0, 3.0]), **buffers)
    model.register_buffer("hidden", torch.arange(3), persistent=False)
    program = save(tmp_path / "a.pt2", model, torch.ones(3))
    tensors = read_pt2(tmp_path / "a.pt2")[1]
    jaxlstm.load_program(tmp_path / "a.pt2").save(tmp_path / "b.pt2")
    again = torch.export.load(tmp_path / "b.pt2")
    expected: dict[str, Any] = {**program.state_dict, **program.constants}
    actual: dict[str, Any] = {**again.state_dict, **again.constants}
    assert again.state_dict.keys() == program.state_dict.keys()
    assert actual.keys() == expected.keys() == tensors.keys()
    for name, tensor in expected.items():
        assert tensors[name].shape == tensor.shape
        assert tensors[name].dtype.name == str(tensor.dtype).removeprefix("torch.")
        assert tensors[name].tolist() == tensor.tolist()
        assert actual[name].dtype == tensor.dtype
        assert torch.equal(actual[name], tensor)


def stepwise(self: Any, x: Any) -> Any:
    h = x.new_zeros(x.shape[0], 4)
    for t in range(x.shape[1]):
        h = self.cell(x[:, t], h)
    return h


def test_a_file_takes_the_sizes_of_calls(tmp_path: Path) -> None:
    """Of a loop over time at any batch, also after the file is written again."""
    model = module_of(stepwise, cell=torch.nn.GRUCell(3, 4))
    program = jaxlstm.from_module(model, (torch.randn(2, 5, 3),))
    for steps in (7, 8):
        jax.eval_shape(program, program.params, jax.ShapeDtypeStruct((3, steps, 3), np.float32))
    params = {name: 2 * array for name, array in program.params.items()}
    program.save(tmp_path / "a.pt2", params)
    jaxlstm.load_program(tmp_path / "a.pt2").save(tmp_path / "b.pt2")
    stored = jaxlstm.load_program(tmp_path / "b.pt2")
    compiled = jaxlstm.inference.compile(stored)
    model.load_state_dict({name: 2 * tensor for name, tensor in model.state_dict().items()})
    for shape in ((2, 5, 3), (4, 7, 3), (3, 8, 3), (1, 7, 3)):
        x = torch.randn(*shape)
        for results in (stored(stored.params, x.numpy()), jax.jit(stored)(stored.params, x.numpy())):
            assert_close(results, model(x), 1e-6)
        assert_close(compiled(x.numpy()), model(x), 1e-6)
    with pytest.raises(ProgramError, match="must have size 5, which the export fixed, got 6"):
        stored(stored.params, np.ones((2, 6, 3), np.float32))
    assert list(torch.export.load(tmp_path / "b.pt2").state_dict) == [*model.state_dict()]


def test_a_file_takes_the_lists_and_constants_of_calls(tmp_path: Path) -> None:
    model = module_of(lambda self, xs, n=2: [self.lstm(x)[0] * n for x in xs], lstm=torch.nn.LSTM(3, 4))
    lists = {size: [torch.randn(3 + n, 2, 3) for n in range(size)] for size in (2, 3, 4)}
    program = jaxlstm.from_module(model, (lists[2], 2))
    for size, n in ((3, 2), (2, 5)):
        program(program.params, [x.numpy() for x in lists[size]], n)
    program.save(tmp_path / "a.pt2")
    stored = jaxlstm.load_program(tmp_path / "a.pt2")
    compiled = jaxlstm.inference.compile(stored)
    for size, n in ((2, 2), (3, 2), (2, 5)):
        xs = [torch.randn(2 * len(x), 1, 3) for x in lists[size]]
        arrays = [x.numpy() for x in xs]
        assert_close(stored(stored.params, arrays, n), model(xs, n), 1e-6)
        assert_close(compiled(arrays, n), model(xs, n), 1e-6)
    with pytest.raises(ProgramError, match="a list of length 2, got list of length 4"):
        compiled([x.numpy() for x in lists[4]], 2)


def test_a_compiled_file_does_not_mix_up_constants(tmp_path: Path) -> None:
    """Of another size and another constant, a call that has one of them is refused."""
    model = module_of(lambda self, x, n=1: (x * 2 if x.shape[1] > 5 else x) + n)
    program = jaxlstm.from_module(model, (torch.ones(3, 6), 1))
    program(program.params, np.ones((3, 4), np.float32), 2)
    program.save(tmp_path / "a.pt2")
    stored = jaxlstm.load_program(tmp_path / "a.pt2")
    compiled = jaxlstm.inference.compile(stored)
    for columns, n in ((6, 1), (4, 2)):
        x = torch.randn(3, columns)
        assert_close(compiled(x.numpy(), n), model(x, n), 1e-6)
    for columns, n in ((4, 1), (6, 2)):
        with pytest.raises(ProgramError):
            compiled(np.ones((3, columns), np.float32), n)


def test_existing_files(tmp_path: Path) -> None:
    """A file of jaxlstm is replaced; any other file only with overwrite=True."""
    program = jaxlstm.load_program(NEWEST)
    program.save(tmp_path / "a.pt2")
    program.save(tmp_path / "a.pt2")
    foreign = tmp_path / "b.pt2"
    foreign.write_bytes(NEWEST.read_bytes())
    with pytest.raises(FileExistsError, match="overwrite=True"):
        program.save(foreign)
    assert foreign.read_bytes() == NEWEST.read_bytes()
    program.save(foreign, overwrite=True)
    assert foreign.read_bytes() == (tmp_path / "a.pt2").read_bytes()


def test_wrong_values(tmp_path: Path) -> None:
    program = jaxlstm.load_program(NEWEST)
    with pytest.raises(jaxlstm.ProgramError, match=r"out\.weight"):
        program.save(tmp_path / "a.pt2", {**program.params, "out.weight": np.zeros((3, 2), np.float32)})
    with pytest.raises(jaxlstm.ProgramError, match="missing"):
        program.save(tmp_path / "a.pt2", {})
    with pytest.raises(TypeError, match="load_program"):
        jaxlstm.Program(*read_pt2(NEWEST)[:2]).save(tmp_path / "a.pt2")
    assert not list(tmp_path.iterdir())
