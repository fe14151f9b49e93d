"""Checks at load time and at the nodes: an error has a code, and names the node, the cause and the fix."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from jaxlstm import from_module
from jaxlstm.programs import register_operator
from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.graph import Node, Value
from jaxlstm.programs.operators import registry
from testing.gradients import require_equal
from testing.graphs import X, node, program

ONES = np.ones((2, 3), np.float32)


def refused(code: str, build: Callable[[], Any]) -> str:
    with pytest.raises(ProgramError) as caught:
        build()
    assert caught.value.code == code, caught.value
    return caught.value.message


def test_unsupported_operators_in_one_error() -> None:
    message = refused(
        "unsupported-operator",
        lambda: program(
            node("aten.normal_.default", "a", path="encoder.noise"),
            node("aten.fold.default", "b", path="head"),
            node("aten.fold.default", "y", path="tail", self=Value("b")),
        ),
    )
    assert "2 unsupported operators" in message
    assert "aten.fold.default in head, tail" in message
    assert "aten.normal_.default in encoder.noise (it draws random numbers, which JAX" in message
    assert "register_operator" in message


def test_own_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_OPERATORS", dict(registry._OPERATORS))

    @register_operator("mylib.scale.default")
    def scale(x: jax.Array, factor: float = 2.0) -> jax.Array:
        return x * factor

    ran = program(node("mylib.scale.default", x=X, factor=3.0))
    np.testing.assert_array_equal(ran({}, ONES), 3 * ONES)
    np.testing.assert_array_equal(program(node("mylib.scale_.default", self=X))({}, ONES), 2 * ONES)
    message = refused("malformed-graph", lambda: program(node("mylib.scale.default", self=X)))
    assert "the names of torch's schema, here self" in message


def test_an_own_operator_in_place_of_torchs_is_refused_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_OPERATORS", dict(registry._OPERATORS))
    register_operator("aten.dropout.default")(lambda input, p, train: 2 * input)
    dropout = {train: node("aten.dropout.default", input=X, p=0.5, train=train) for train in (True, False)}
    refused("training-mode", lambda: program(dropout[True]))
    np.testing.assert_array_equal(program(dropout[False])({}, ONES), 2 * ONES)
    register_operator("aten.dropout.default", in_training=lambda kwargs: False)(lambda input, p, train: input)
    np.testing.assert_array_equal(program(dropout[True])({}, ONES), ONES)


@pytest.mark.parametrize("name", ["erfinv", "aten.erfinv", "mylib.ops.scale.default"])
def test_name_of_an_own_operator(name: str) -> None:
    with pytest.raises(ValueError, match=rf'names must have the form .*, got "{name}"'):
        register_operator(name)


def test_undefined_values_and_wrong_arguments() -> None:
    assert "zz" in refused("malformed-graph", lambda: program(node("aten.relu.default", self=Value("zz"))))
    message = refused("malformed-graph", lambda: program(node("aten.relu.default", self=X, slope=2)))
    assert "slope" in message
    refused("malformed-graph", lambda: program(node("aten.relu.default")))
    refused("malformed-graph", lambda: program(node("aten.relu_.default", self=1)))
    refused("malformed-graph", lambda: program(output="nothing"))


SAMPLES = torch.randn(2, 3, 4)
IN_TRAINING = [nn.Dropout(0.5), nn.AlphaDropout(), nn.LSTM(4, 5, num_layers=2, dropout=0.5)]
IN_TRAINING += [nn.BatchNorm1d(3), nn.InstanceNorm1d(3, track_running_stats=True)]


@pytest.mark.parametrize("layer", IN_TRAINING, ids=lambda layer: type(layer).__name__)
def test_training_mode(layer: nn.Module) -> None:
    model = nn.Sequential(layer)
    message = refused("training-mode", lambda: from_module(model.train(), (SAMPLES,)))
    assert "model.eval()" in message
    assert "module 0" in message
    require_equal(from_module(model.eval(), (SAMPLES,)), model, SAMPLES)


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(3, track_running_stats=False), nn.LSTM(4, 5, num_layers=2)])
def test_layers_that_training_does_not_change(layer: nn.Module) -> None:
    require_equal(from_module(layer.train(), (SAMPLES,)), layer, SAMPLES)


def test_static_shape_contradicts_the_inputs() -> None:
    # The export fixed the batch in a view: with 4 rows of 3, (2, 3) becomes (2, 6).
    ran = program(node("aten.view.default", self=X, size=(2, -1), shape=(2, 3), path="head"))
    np.testing.assert_array_equal(ran({}, ONES), ONES)
    message = refused("static-shape", lambda: ran({}, np.ones((4, 3), np.float32)))
    for part in ("axis 1", "size 6", "module head", "from_module frees as many", "n = 4"):
        assert part in message
    wrong_axes = program(node("aten.relu.default", self=X, shape=(2,)))
    refused("static-shape", lambda: wrong_axes({}, ONES))
    wrong_dtype = program(node("aten.relu.default", self=X, shape=("n", 3), result_dtype="int64"))
    refused("node-dtype", lambda: wrong_dtype({}, ONES))


def test_failed_node() -> None:
    ran = program(node("aten.view.default", self=X, size=(2, 3)))
    message = refused("node-failed", lambda: jax.jit(ran)({}, np.ones((4, 3), np.float32)))
    for part in ("aten.view.default", "float32[4, 3]", "from_module frees as many"):
        assert part in message


@pytest.mark.parametrize(
    "hostile",
    [
        node("aten.zeros.default", size=(1 << 20, 1 << 20, 1 << 10)),
        node("aten.arange.default", end=1 << 50),
        node("aten.adaptive_avg_pool1d.default", self=X, output_size=(10**9,)),
    ],
    ids=lambda node: node.op,
)
def test_results_that_do_not_fit_into_memory(hostile: Node) -> None:
    refused("node-failed", lambda: program(hostile)({}, ONES))


def test_sizes_and_guards() -> None:
    nodes = (
        node("aten.sym_size.int", "n", self=X, dim=0),
        node("_operator.mul", "twice", Value("n"), 2),
        node("_operator.ge", "enough", Value("twice"), 6),
        node("aten._assert_scalar.default", None, self=Value("enough"), assert_msg="2 * n >= 6"),
        node("aten.new_zeros.default", "y", self=X, size=(Value("twice"),)),
    )
    ran = program(*nodes)
    assert ran({}, np.ones((3, 3), np.float32)).shape == (6,)
    assert "2 * n >= 6" in refused("guard", lambda: ran({}, ONES))
    endless = program(node("_operator.pow", "y", 10, 10**9))
    refused("node-failed", lambda: endless({}, ONES))


def test_indices_out_of_range() -> None:
    table = np.arange(6, dtype=np.float32).reshape(3, 2)
    ran = program(
        node("aten.embedding.default", weight=Value("p_table"), indices=X),
        shape=("n",),
        dtype="int64",
        params={"table": table},
    )
    np.testing.assert_array_equal(ran(ran.params, np.array([2, 0])), table[[2, 0]])
    for wrong in (3, -1):
        assert str(wrong) in refused("index-range", lambda wrong=wrong: ran(ran.params, np.array([0, wrong])))
        under_jit = jax.jit(ran)(ran.params, np.array([0, wrong]))
        np.testing.assert_array_equal(under_jit, [table[0], [np.nan, np.nan]])


def test_64_bit_types() -> None:
    floats = program(node("aten.relu.default", self=X), dtype="float64")
    refused("tensor-dtype", lambda: floats({}, np.ones((2, 3))))
    refused("tensor-dtype", lambda: program(node("aten.relu.default", self=X), params={"w": np.ones(2)}))
    assert refused(
        "tensor-dtype", lambda: program(node("aten.to.dtype", self=X, dtype=np.dtype("float64")))({}, ONES)
    )
    integers = program(
        node("aten.mul.Tensor", self=X, other=2, shape=("n", 3), result_dtype="int64"), dtype="int64"
    )
    result = integers({}, np.full((1, 3), 5))
    assert result.dtype == np.int32
    np.testing.assert_array_equal(integers({}, jnp.full((1, 3), 5)), result)
    refused("tensor-dtype", lambda: integers({}, np.full((1, 3), 2**40)))
    with jax.enable_x64(True):
        assert floats({}, np.ones((2, 3))).dtype == np.float64
        large = integers({}, np.full((1, 3), 2**40))
        assert large.dtype == np.int64
        assert large[0, 0] == 2**41
        assert integers({}, np.full((1, 3), 5, np.int32)).dtype == np.int64


def test_in_place_views() -> None:
    transposed = node("aten.t_.default", "t", self=X)
    result = program(transposed, node("aten.neg.default", self=Value("t")))({}, ONES)
    np.testing.assert_array_equal(result, -ONES.T)
    message = refused(
        "unsupported-alias", lambda: program(transposed, node("aten.add.Tensor", self=Value("t"), other=X))
    )
    assert "node t (aten.t_.default, the outermost module) changes the shape of x in place" in message
    program(node("aten.detach_.default", self=X))
