"""The spelling of operators and layers equals the registered operators, in values and gradients."""

import ast
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

import jaxlstm
from jaxlstm import from_module
from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.graph import Node, TensorType, Value
from jaxlstm_converters.source.spelling import spell
from jaxlstm_converters.source.syntax.simplify import simplified
from jaxlstm_converters.source.syntax.template import tree_of
from testing.flax_layers import CASES
from testing.graphs import to_numpy
from testing.modules import module_of
from testing.op_samples import NAMES, NEED_FLOAT64, OTHER_DTYPES, has_gradient, op_infos, samples
from testing.spelled import CALLED, MODULES, SPELLINGS, function_of, name_of, spelled, traced_nodes
from testing.written import Written, assert_equal, written_program

SLOW = pytest.mark.slow
REFUSED = ("unsupported-operator", "training-mode", "tensor-dtype")


@pytest.mark.parametrize("expression", SPELLINGS)
def test_text(expression: str) -> None:
    assert spelled(expression) == SPELLINGS[expression]


@pytest.mark.parametrize("expression", CALLED)
def test_calls(expression: str) -> None:
    assert spelled(expression).startswith("jaxlstm.programs.call(")


@SLOW
@pytest.mark.parametrize("expression", [*SPELLINGS, *CALLED])
def test_values(expression: str) -> None:
    function, named = function_of(expression)
    for node in traced_nodes(function, [*named.values()]):
        node.require_equal(gradients=False)


SAMPLES = [(name, torch.float32) for name in NAMES if name not in NEED_FLOAT64]
SAMPLES += [
    (name, dtype)
    for name in OTHER_DTYPES
    for dtype in (torch.int64, torch.bool, torch.uint8, torch.bfloat16)
    if dtype in op_infos()[name].dtypes
]


@SLOW
@pytest.mark.parametrize(("name", "dtype"), SAMPLES, ids=str)
def test_samples(name: str, dtype: torch.dtype) -> None:
    gradients = dtype.is_floating_point and has_gradient(name)
    for function, tensors in samples(name, dtype, 3):
        try:
            nodes = list(traced_nodes(function, tensors))
        except ProgramError as error:
            if error.code in REFUSED:
                continue
            raise
        for node in nodes:
            node.require_equal(gradients=gradients)


LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    **{
        name: (case.torch, case.shape)
        for name, case in CASES.items()
        if not any(part in name for part in ("WeightNorm", "MultiHead", "General", "RNN", "Cell", "Bidir"))
        and case.shape
    },
    "GRU": (lambda: nn.GRU(3, 4, 2, bidirectional=True), (5, 2, 3)),
    "RNN": (lambda: nn.RNN(3, 4, nonlinearity="relu", batch_first=True), (2, 5, 3)),
    "LSTMCell": (lambda: nn.LSTMCell(3, 4), (2, 3)),
    "Conv1d of one": (lambda: nn.Conv1d(4, 6, 3, padding="same"), (4, 7)),
    "Conv2d of one": (lambda: nn.Conv2d(4, 6, 3, padding=(2, 1), stride=(1, 2)), (4, 7, 5)),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(3), (4, 3)),
    "GroupNorm of vectors": (lambda: nn.GroupNorm(2, 4), (3, 4)),
    "InstanceNorm without scale": (lambda: nn.InstanceNorm1d(3), (2, 3, 5)),
    "LayerNorm without scale": (lambda: nn.LayerNorm(4, elementwise_affine=False), (2, 4)),
    "Dropout": (lambda: nn.Dropout(0.3), (2, 4)),
    "Dropout of channels": (lambda: nn.Dropout1d(0.3), (2, 4, 5)),
}
NO_LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "RMSNorm without epsilon": (lambda: nn.RMSNorm(4), (2, 4)),
    "ConvTranspose1d with groups": (lambda: nn.ConvTranspose1d(4, 4, 3, groups=2), (2, 4, 5)),
    "BatchNorm without averages": (lambda: nn.BatchNorm1d(3, track_running_stats=False), (4, 3)),
    "LayerNorm over two axes": (lambda: nn.LayerNorm([3, 4]), (2, 3, 4)),
    "InstanceNorm with averages": (lambda: nn.InstanceNorm1d(3, track_running_stats=True), (2, 3, 5)),
    "PReLU of channels": (lambda: nn.PReLU(4), (2, 4)),
    "Dropout of nothing": (lambda: nn.Dropout(0.0), (2, 4)),
}


@pytest.fixture(scope="module", params=[LAYERS, pytest.param(NO_LAYERS, marks=pytest.mark.slow)])
def side(request: pytest.FixtureRequest) -> tuple[Written, tuple[torch.Tensor, ...]]:
    """The written modules: layers of Flax and this library, or classes of the file."""

    def forward(self: Any, *inputs: torch.Tensor) -> list[Any]:
        return [part(x) for part, x in zip(self.parts, inputs, strict=True)]

    torch.manual_seed(0)
    model = module_of(forward, parts=nn.ModuleList(make() for make, _ in request.param.values()))
    inputs = tuple(torch.randn(shape) for _, shape in request.param.values())
    written = written_program(from_module(model, inputs, dynamic_shapes=False))
    modules = [type(part).__module__ for part in written.model.parts if isinstance(part, nnx.Module)]
    assert len(modules) - modules.count("written") == (len(inputs) if request.param is LAYERS else 0)
    return written, inputs


def test_layers(side: tuple[Written, tuple[torch.Tensor, ...]]) -> None:
    """Layers, and modules that are none, equal the program."""
    written, inputs = side
    assert_equal(written, *inputs)


@SLOW
def test_gradients_of_layers(side: tuple[Written, tuple[torch.Tensor, ...]]) -> None:
    written, inputs = side
    jaxlstm.check.verify_model(written.model, written.program, tuple(map(to_numpy, inputs))).raise_if_failed()


def test_sizes_are_written_as_by_hand() -> None:
    def text(op: str, *args: Any) -> str:
        return ast.unparse(spell(Node("y", op, args, {}, ("y",)), {}, name_of).expr)

    n = Value("n")
    assert text("_operator.add", -1, n) == "n - 1"
    assert text("_operator.add", 1, n) == "n + 1"
    assert text("_operator.add", n, 1) == "n + 1"
    assert text("math.ceil", n) == "math.ceil(n)"


SIMPLIFIED = {
    "x[:, 1:][:, :, None]": "x[:, 1:, None]",
    "x[...][..., None]": "x[..., None]",
    "x[:, 0][:, 1:]": "x[:, 0, 1:]",
    "x[:, None][:, :, 0]": "x[:, None, 0]",
    "x[1:][None]": "x[None, 1:]",
    "x[1:][2:]": "x[1:][2:]",
    "x[1:][0]": "x[1:][0]",
    "x[0][1]": "x[0][1]",
    "x[:, None][:, 0]": "x[:, None][:, 0]",
    "jnp.squeeze(x.mean(axis=1, keepdims=True), 1)": "x.mean(axis=1)",
    "x.reshape(4, 6).reshape(-1)": "x.reshape(-1)",
}


@pytest.mark.parametrize("text", SIMPLIFIED)
def test_simplified(text: str) -> None:
    tree = ast.parse(text, mode="eval")
    shorter = ast.unparse(simplified(tree))
    assert shorter == SIMPLIFIED[text]
    assert ast.unparse(tree) == text
    x = jnp.arange(24.0).reshape(2, 3, 4)
    np.testing.assert_array_equal(eval(shorter, {**MODULES, "x": x}), eval(text, {**MODULES, "x": x}))


def test_unused_values_are_dropped_and_rows_written_as_the_array() -> None:
    texts = {"a, _ = (x, y)": "a = x", "_, a, b = (x, y, z)": "a, b = (y, z)", "a, _ = f(x)": "a, _ = f(x)"}
    texts |= {"[y, x[0], x[1], x[2], z]": "[y, *x[:3], z]", "[x[0], x[1]]": "[x[0], x[1]]"}
    assert {text: ast.unparse(simplified(ast.parse(text))) for text in texts} == texts


def test_numbers_and_strings() -> None:
    numbers = (-1, -0.5, 1e-5, 12e6, 1e300, 3**0.5, float("inf"), -float("inf"))
    for value in (*numbers, True, None, "a'\"\n\\", (1,), ()):
        assert eval(ast.unparse(tree_of(value, name_of)), MODULES) == value
    power = Node("y", "aten.pow.Scalar", (), {"self": -2, "exponent": Value("x")}, ("y",))
    types = {"x": TensorType(np.dtype("float32"), (3,))}
    assert ast.unparse(spell(power, types, name_of).expr) == "(-2) ** x"


def test_names_of_a_file_are_never_code() -> None:
    hostile = "a=1); import os; f(b"
    resized = Node("y", "aten.upsample_nearest2d.default", (), {"self": Value("x"), hostile: 1}, ("y",))
    assert hostile not in ast.unparse(spell(resized, {}, name_of).expr)


def test_no_gradient() -> None:
    node = Node("y", "aten.relu.default", (), {"self": Value("x")}, ("y",), with_gradient=False)
    types = {name: TensorType(np.dtype("float32"), (3,)) for name in "xy"}
    assert ast.unparse(spell(node, types, name_of).expr) == "lax.stop_gradient(nnx.relu(x))"


def test_call() -> None:
    x = jnp.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(jaxlstm.programs.call("aten.cumsum.default", x, dim=1)[1], [3, 7, 12])
    half = jaxlstm.programs.call("aten.sum.dim_IntList", x, dim=[1], dtype=jnp.bfloat16)
    assert half.dtype == jnp.bfloat16
    assert jaxlstm.programs.call("aten.hann_window.default", 5, dtype=float).dtype == jnp.float32
    with pytest.raises(ProgramError, match="is not registered"):
        jaxlstm.programs.call("aten.foo.default", x)
    with pytest.raises(ProgramError, match="evaluation mode"):
        jaxlstm.programs.call("aten.dropout.default", x, p=0.5, train=True)
