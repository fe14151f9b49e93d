"""Programs: calls, listings and options, and samples of random models that the package nnsmith built."""

import itertools
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch

import jaxlstm
from jaxlstm import from_module
from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.graph import Value
from jaxlstm.programs.program import Program
from jaxlstm_converters.pt2._read_pt2 import read_pt2
from testing.gradients import assert_close
from testing.graphs import X, node
from testing.graphs import program as program_of_nodes
from testing.modules import module_of
from testing.zoo import PRACTICE

DEMO = Path(__file__).parents[2] / "examples" / "demo.pt2"
BATCH = torch.export.Dim("batch", min=2, max=64)


@pytest.fixture(scope="module")
def program() -> Program:
    module = PRACTICE["text recogniser"].build()
    return from_module(module, (torch.randn(2, 1, 16, 12),), dynamic_shapes=({0: BATCH},))


def test_listing(program: Program) -> None:
    text = str(program)
    assert "images: f32[s" in text
    assert "first:\n" in text
    assert ", out.weight, out.bias)" in text
    assert "device" not in text


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("input-structure", ()),
        ("input-structure", (np.zeros((2, 1, 16, 12), np.float32),) * 2),
        ("input-shape", (np.zeros((2, 1, 16, 14), np.float32),)),
        ("input-shape", (np.zeros((65, 1, 16, 12), np.float32),)),
        ("input-shape", (np.zeros((16, 12), np.float32),)),
        ("input-dtype", (np.zeros((2, 1, 16, 12)),)),
        ("input-dtype", (3.0,)),
        ("numpy.stack", (np.array([None]),)),
    ],
)
def test_wrong_inputs(program: Program, words: str, arguments: tuple) -> None:
    """A message has the code of the error at its end."""
    with pytest.raises(ProgramError, match=words):
        program(program.params, *arguments)


def test_wrong_params(program: Program) -> None:
    images = np.zeros((2, 1, 16, 12), np.float32)
    for params in ({}, {**program.params, "other": 0}, {**program.params, "out.bias": np.zeros(3)}):
        with pytest.raises(ProgramError, match=r"params.*\[params"):
            program(params, images)


def test_aliases_and_buffers() -> None:
    """In-place operators on views of a buffer and of a tensor."""

    def forward(m: Any, x: torch.Tensor, scale: dict[str, torch.Tensor]) -> Any:
        m.count.add_(1)
        m.count[1] = 7.0
        m.last = x[:, 0]
        y = x.clone()
        y[:, 0] = 3
        y[:, 1:].mul_(scale["by"])
        column = y.unsqueeze(1)
        y.add_(1)
        column.squeeze(1)[0].mul_(5)
        y.t().relu_()
        return y + m.count[:2], [column, y.sum(1)]

    model = module_of(forward, count=torch.zeros(3), last=torch.zeros(2))
    x, by = torch.randn(2, 2), torch.tensor(2.0)
    program = from_module(model, (x,), {"scale": {"by": by}})
    assert program.mutated_buffers == ("count", "last")
    buffers: Any = program.buffers
    for rows in (2, 2, 3):
        x = torch.randn(rows, 2)
        expected = model(x, scale={"by": by})
        result, buffers = program.call_with_buffers({}, x.numpy(), scale={"by": by.numpy()}, buffers=buffers)
        assert_close(result, expected, 0, 1e-6)
        for name in program.mutated_buffers:
            np.testing.assert_allclose(buffers[name], getattr(model, name).numpy())


def test_program_copies_the_values() -> None:
    weight = np.ones((2, 3), np.float32)
    made = program_of_nodes(node("aten.linear.default", input=X, weight=Value("p_w")), params={"w": weight})
    weight[:] = 5
    np.testing.assert_array_equal(made.params["w"], 1)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="other devices copy the values")
def test_values_that_were_read_are_not_copied() -> None:
    graph, tensors, *_ = read_pt2(DEMO)
    made = Program(graph, tensors, copy=False)
    assert made.params
    for name, array in made.params.items():
        assert array.unsafe_buffer_pointer() == tensors[name].__array_interface__["data"][0]


SAMPLES = sorted(Path(__file__).with_name("random_programs").glob("*.pt2"))


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_results_equal_torch(path: Path) -> None:
    recorded = np.load(path.with_suffix(".npz"))
    inputs = [recorded[name] for name in recorded if name.startswith("in.")]
    expected = [recorded[name] for name in recorded if name.startswith("out.")]
    with jax.enable_x64(True):
        program = jaxlstm.load_program(path)
        results = jax.tree.leaves(jax.jit(program.__call__)(program.params, *inputs))
    for actual, theirs in zip(results, expected, strict=True):
        assert (actual.dtype, actual.shape) == (theirs.dtype, theirs.shape)
        rtol = 200 * np.finfo(theirs.dtype).eps if np.issubdtype(theirs.dtype, np.floating) else 0
        np.testing.assert_allclose(actual, theirs, rtol=rtol)


def test_there_are_samples() -> None:
    assert len(SAMPLES) == 20


def test_an_error_shows_one_frame_of_this_package() -> None:
    program = program_of_nodes(node("aten.view.default", self=X, size=(5,)), shape=("n", 3))
    with pytest.raises(ProgramError, match="node y") as error:
        program({}, np.ones((2, 3), np.float32))
    ours = [entry for entry in error.traceback if "jaxlstm" in Path(entry.path).parts]
    assert [entry.name for entry in ours] == ["__call__"]
    assert error.value.__cause__ is not None


@pytest.mark.parametrize(("op", "numbers"), [("add", (1, 1.0, True)), ("copysign", (0.0, -0.0))])
def test_numbers_that_are_equal_but_not_the_same_argument(op: str, numbers: tuple[float, ...]) -> None:
    x = torch.tensor([-2, 0, 3], dtype=torch.int32)
    function = getattr(torch, op)
    for other in numbers:
        program = program_of_nodes(
            node(f"aten.{op}.Scalar", self=X, other=other), shape=("n",), dtype="int32"
        )
        ours, theirs = np.asarray(program({}, x.numpy())), function(x, other).numpy()
        np.testing.assert_array_equal(ours, theirs, strict=True)
        np.testing.assert_array_equal(np.signbit(ours), np.signbit(theirs))


def test_an_operator_with_many_constants_is_not_compiled_for_each() -> None:
    values = ("x", *(f"y{k}" for k in range(20)), "y")
    scaled = [
        node("aten.mul.Tensor", new, self=Value(old), other=k)
        for k, (old, new) in enumerate(itertools.pairwise(values))
    ]
    program = program_of_nodes(*scaled, node("aten.relu.default", "z", self=Value("y")), output="z")
    compiled = [step.node.op for step in program._steps._steps if step._compiled]
    assert compiled == ["aten.relu.default"]
