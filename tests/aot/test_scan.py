"""The plain scan and its gradient, compiled for TPUs and GPUs: loops, precision, memory and communication.

cuDNN is missing: JAX asks the device for the size of its workspace, so it cannot be lowered without a GPU.
"""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxlstm import LSTMConfig
from jaxlstm.inference import shard
from testing.aot.programs import FORMS, Hlo, Program, compile_for, compiled, each_chip, mesh

PLAIN, RAGGED, BIDIRECTIONAL, PROJECTED = FORMS[:4]
GRADIENTS = [form.but(gradient=True) for form in FORMS]
on_each_chip = each_chip("tpu", "cuda")
on_tpus = each_chip("tpu")


@pytest.mark.parametrize("program", GRADIENTS, ids=str)
def test_the_size_does_not_depend_on_time(program: Program) -> None:
    """Apart from numbers, the lowered programs are equal. A gradient contains the forward pass."""

    def lowered(time: int) -> str:
        other = program.but(time=time)
        traced = jax.jit(other.function()).trace(*other.arguments())
        return re.sub(r"\d+", "0", traced.lower(lowering_platforms=("tpu",)).as_text())

    assert lowered(24) == lowered(2400)


@on_each_chip
@pytest.mark.parametrize("program", [*FORMS, *GRADIENTS], ids=str)
def test_only_recurrent_products_are_in_the_loop(program: Program, chip: str) -> None:
    """A loop computes one product per step, two with a projection. A gradient has two passes."""
    hlo, config = compiled(program, chip), program.config
    assert {product.precision for product in hlo.products()} <= {"highest"}
    assert hlo.collectives() == []
    passes = config.num_layers * config.num_directions * (2 if program.gradient else 1)
    assert len(hlo.loops) >= passes  # XLA may compute a mask in a separate loop
    assert hlo.products_in_loops() == passes * (2 if config.proj_size else 1)


@on_each_chip
@pytest.mark.parametrize("precision", ["highest", "high", "default"])
@pytest.mark.parametrize("program", [PLAIN, GRADIENTS[0]], ids=str)
def test_products_have_the_requested_precision(program: Program, precision: str, chip: str) -> None:
    products = compiled(program.but(precision=precision), chip).products()
    assert {product.precision for product in products} == {precision}


@on_tpus
def test_recurrent_weights_stay_in_vmem(chip: str) -> None:
    """The loop carries the weights in S(1), which is VMEM."""
    program = PLAIN.but(config=LSTMConfig(512, 512), batch=32, time=256)
    (loop,) = compiled(program, chip).loops
    (weights,) = [shape for shape in loop.line.split(") while(")[0].split(" ") if "[2048,512]" in shape]
    assert "S(1)" in weights


def sharded_batch(program: Program, chip: str) -> Hlo:
    """Compile a program with the batch split over the chips and the weights on each chip."""
    four = mesh(chip, data=4)
    everywhere, batch = NamedSharding(four, P()), NamedSharding(four, P(None, "data"))
    params, _, state, lengths = program.arguments()
    rows = None if lengths is None else NamedSharding(four, P("data"))
    shardings = (dict.fromkeys(params, everywhere), batch, type(state)(batch, batch), rows)
    return compile_for(program.function(), program.arguments(), shardings)


@on_tpus
@pytest.mark.parametrize("form", [PLAIN, RAGGED, BIDIRECTIONAL.but(dtype="bfloat16"), PROJECTED], ids=str)
def test_the_forward_pass_sends_nothing(form: Program, chip: str) -> None:
    assert sharded_batch(form.but(batch=64), chip).collectives() == []


@on_tpus
@pytest.mark.parametrize("form", [PLAIN, RAGGED], ids=str)
def test_the_backward_pass_sends_gradients_of_weights(form: Program, chip: str) -> None:
    hlo = sharded_batch(form.but(batch=64, gradient=True), chip)
    assert set(hlo.collectives()) == {("all-reduce", False)}  # outside the loop
    (reduction,) = [i.line for i in hlo.instructions if i.op == "all-reduce"]
    shapes = re.findall(r"f32\[[\d,]+\]", reduction.split(" all-reduce(")[0])
    # dW_ih, dW_hh, and the gradient that both biases share
    assert sorted(shapes) == ["f32[512,128]", "f32[512,128]", "f32[512]"]


@on_tpus
@pytest.mark.parametrize("axes", [{"hidden": 4}, {"data": 2, "hidden": 2}], ids=str)
@pytest.mark.parametrize("layers", [1, 2])
def test_units_split_over_chips_gather_h_once_per_step(layers: int, axes: dict[str, int], chip: str) -> None:
    config = LSTMConfig(128, 512, num_layers=layers)
    lstm = shard(config, mesh(chip, **axes))
    params, inputs, *_ = PLAIN.but(config=config, batch=64).arguments()

    def by_gate(leaf: Any) -> Any:
        """Return the shape that ``Sharded.place`` gives to a parameter."""
        return jax.ShapeDtypeStruct((4, config.hidden_size, *leaf.shape[1:]), jnp.float32)

    weights = NamedSharding(lstm.mesh, P(None, "hidden"))
    rows = NamedSharding(lstm.mesh, P(None, "data" if "data" in axes else None))
    hlo = compile_for(lstm, (jax.tree.map(by_gate, params), inputs), (dict.fromkeys(params, weights), rows))
    assert hlo.collectives() == [("all-gather", True)] * layers


X, W = jnp.ones((6, 3, 4)), jnp.ones((4, 4))


def compiled_here(function: Any, *arguments: Any) -> Hlo:
    text = jax.jit(function).lower(*arguments).compile().as_text()
    assert text is not None
    return Hlo(text)


def simple_rnn(w_x: jax.Array, w_h: jax.Array, x: jax.Array, hoisted: bool) -> jax.Array:
    def step(h: jax.Array, x_t: jax.Array) -> tuple[jax.Array, jax.Array]:
        h = jnp.tanh((x_t if hoisted else x_t @ w_x) + h @ w_h)
        return h, h

    return lax.scan(step, jnp.zeros((3, 4)), x @ w_x if hoisted else x)[1]


def test_products_in_loops() -> None:
    """JAX's derivative of a scan computes h_t^T dz_t in the loop, although no step needs it."""
    inside = compiled_here(lambda *a: simple_rnn(*a, hoisted=False), W, W, X)
    assert (len(inside.products()), inside.products_in_loops()) == (2, 2)
    outside = compiled_here(lambda *a: simple_rnn(*a, hoisted=True), W, W, X)
    assert (len(outside.products()), outside.products_in_loops()) == (2, 1)
    loss = lambda w, x: simple_rnn(w, w, x, hoisted=True).sum()  # noqa: E731
    assert compiled_here(jax.grad(loss), W, X).products_in_loops() == 3  # h W_hh, dz W_hh^T and h^T dz


def test_precision() -> None:
    for name in ("highest", "high", "default"):
        product = lambda a, b, name=name: jnp.matmul(a, b, precision=name)  # noqa: E731
        program = compiled_here(product, jnp.ones((300, 400)), jnp.ones((400, 500)))
        assert [parsed.precision for parsed in program.products()] == [name]
        assert program.products_in_loops() == 0
