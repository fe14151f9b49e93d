"""Properties of the TPU kernels: weights fetched once, requested precision, little HBM traffic."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import pytest

from jaxlstm import LSTMConfig
from jaxlstm.kernels import operations
from jaxlstm.kernels.tpu import TPU
from testing.aot.programs import Program
from testing.aot.tpu import compiled, each_chip
from testing.aot.traffic import hbm_bytes

LARGE = Program("large", LSTMConfig(512, 512), time=1024, batch=32)
PROJECTED = LARGE.but(config=LSTMConfig(512, 512, proj_size=256))


def kernels(program: Program) -> list[Any]:
    """Return the ``pallas_call`` equations: forward, forward with derivative, backward."""
    params, inputs, state, _ = program.arguments()
    params = {name.removesuffix("_l0"): leaf for name, leaf in params.items()}
    state = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape[1:], s.dtype), state)
    static = {"reverse": False, "precision": program.precision}
    forward = (params, inputs, state, None)
    differentiate = partial(operations.FORWARD_AND_DIFFERENTIATE.plain, **static)
    cotangents, derivative, _ = jax.eval_shape(differentiate, *forward)
    calls = [
        (operations.FORWARD, TPU.forward, forward, {}),
        (operations.FORWARD_AND_DIFFERENTIATE, TPU.forward, forward, {}),
        (operations.BACKWARD, TPU.backward, (params, derivative, None, cotangents), {"projected": False}),
    ]
    equations = []
    for operation, compute, arguments, more in calls:
        kernel, keywords = operation.kernel(compute), {**static, **more}
        jaxpr = jax.make_jaxpr(lambda *a, k=kernel, s=keywords: k(*a, **s))(*arguments)
        equations += [e for e in jaxpr.eqns if e.primitive.name == "pallas_call"]
    assert len(equations) == 3
    return equations


@pytest.mark.parametrize("projected", [False, True])
def test_weights_are_fetched_once(projected: bool) -> None:
    """The block of a weight is the whole array in one buffer, the same for all grid points."""
    for equation in kernels(PROJECTED if projected else LARGE):
        blocks = equation.params["grid_mapping"].block_mappings
        weights = [block for block in blocks if "weight" in str(block.origin)]
        names = {str(block.origin).split("'")[1] for block in weights}
        assert names - {"weight_ih"} == ({"weight_hh", "weight_hr"} if projected else {"weight_hh"})
        for block in weights:
            sizes = tuple(axis.block_size for axis in block.block_shape)
            assert sizes == block.array_aval.shape
            assert block.pipeline_mode.buffer_count == 1
            at = block.index_map_jaxpr.jaxpr.outvars
            assert [literal.val for literal in at] == [0] * len(sizes)


@pytest.mark.parametrize(
    ("precision", "parts"), [("highest", 3), ("high", 2), ("default", 1), ("tensorfloat32", 2)]
)
def test_number_of_parts_in_a_product(precision: str, parts: int) -> None:
    """A product has one dot per part of the weights, with up to ``parts`` parts of x stacked as rows."""
    forward, with_derivative, backward = kernels(LARGE.but(precision=precision))
    step, block = 32, 128  # rows of the recurrent product, and of the input projection
    for equation, sizes in [(forward, (step, block)), (with_derivative, (step, block)), (backward, (step,))]:
        products = [e for e in all_equations(equation.params["jaxpr"]) if e.primitive.name == "dot_general"]
        assert {v.aval.dtype.name for e in products for v in e.invars} == {"bfloat16"}
        assert {e.outvars[0].aval.dtype.name for e in products} == {"float32"}
        rows = sorted(e.invars[0].aval.shape[0] for e in products)
        assert rows == sorted(size * met for size in sizes for met in range(1, parts + 1))


def all_equations(jaxpr: Any) -> Iterator[Any]:
    """Yield all equations, including those in loops and branches."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from all_equations(inner)


@each_chip
def test_half_the_traffic_of_the_plain_scan(chip: str) -> None:
    """The plain scan stores the gates of all steps, which do not fit in VMEM here."""
    for precision in ("highest", "default"):
        program = LARGE.but(precision=precision)
        kernel, scan = (hbm_bytes(compiled(program.but(backend=b), chip)) for b in ("pallas", "scan"))
        assert kernel <= scan / 2
        inputs_and_outputs = 2 * 4 * program.time * program.batch * 512
        assert inputs_and_outputs <= kernel <= 1.2 * inputs_and_outputs


@each_chip
@pytest.mark.parametrize(
    "program",
    [
        LARGE.but(time=13, batch=300, ragged=True),
        LARGE.but(time=1, batch=1),
        LARGE.but(time=50, batch=3, config=LSTMConfig(1, 1)),
        LARGE.but(time=7, batch=129, config=LSTMConfig(300, 1000), dtype="bfloat16"),
        LARGE.but(time=64, batch=8, config=LSTMConfig(1024, 1024)),
    ],
    ids=lambda p: f"T{p.time}-B{p.batch}-H{p.config.hidden_size}",
)
def test_any_size_compiles(program: Program, chip: str) -> None:
    text = compiled(program.but(backend="pallas"), chip).text
    assert text.count('custom_call_target="tpu_custom_call"') == 1


@each_chip
def test_weights_beyond_vmem_run_on_the_plain_scan(chip: str) -> None:
    program = LARGE.but(config=LSTMConfig(2048, 2048), backend="pallas", time=8)
    hlo = compiled(program, chip)
    assert "tpu_custom_call" not in hlo.text
    assert len(hlo.loops) == 1
