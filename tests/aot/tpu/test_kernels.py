"""What the kernels for TPUs promise: weights fetched once, products as exact as asked for, little traffic."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import pytest

from jaxlstm import LSTMConfig
from jaxlstm.kernels import shapes
from jaxlstm.kernels.tpu import TPU
from tests.aot.programs import Program
from tests.aot.tpu.chips import compiled, each_chip
from tests.aot.traffic import hbm_bytes

LARGE = Program("large", LSTMConfig(512, 512), time=1024, batch=32)
PROJECTED = LARGE.but(config=LSTMConfig(512, 512, proj_size=256))


def kernels(program: Program) -> list[Any]:
    """The equations ``pallas_call``: forwards, forwards with derivative, backwards."""
    params, inputs, state, _ = program.arguments()
    params = {name.removesuffix("_l0"): leaf for name, leaf in params.items()}
    state = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape[1:], s.dtype), state)
    static = {"reverse": False, "precision": program.precision}
    cotangents = shapes.run(params, inputs, state, None, **static)
    _, derivative, _ = shapes.run_and_differentiate(params, inputs, state, None, **static)
    calls = [
        (TPU.run, (params, inputs, state, None), static),
        (TPU.run_and_differentiate, (params, inputs, state, None), static),
        (TPU.run_cotangent, (params, derivative, None, cotangents), {"projected": False, **static}),
    ]
    found = []
    for kernel, arguments, keywords in calls:
        jaxpr = jax.make_jaxpr(lambda *a, k=kernel, s=keywords: k(*a, **s))(*arguments)
        found += [e for e in jaxpr.eqns if e.primitive.name == "pallas_call"]
    assert len(found) == 3
    return found


@pytest.mark.parametrize("projected", [False, True])
def test_weights_are_fetched_once_and_stay(projected: bool) -> None:
    """Their block is the whole array, at the same place for each point of the grid, in one buffer."""
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
def test_a_product_is_of_as_many_parts_as_asked_for(precision: str, parts: int) -> None:
    """A part of the weights times those of the other that it meets, as rows: 3 + 2 + 1, 2 + 1 or 1 in all."""
    forward, with_derivative, backward = kernels(LARGE.but(precision=precision))
    step, block = 32, 128  # rows of the recurrent product, and of the input projection
    for equation, sizes in [
        (forward, (step, block)),
        (with_derivative, (step, block)),
        (backward, (step,)),
    ]:
        products = [e for e in every(equation.params["jaxpr"]) if e.primitive.name == "dot_general"]
        assert {v.aval.dtype.name for e in products for v in e.invars} == {"bfloat16"}
        assert {e.outvars[0].aval.dtype.name for e in products} == {"float32"}
        rows = sorted(e.invars[0].aval.shape[0] for e in products)
        assert rows == sorted(size * met for size in sizes for met in range(1, parts + 1))


def every(jaxpr: Any) -> Iterator[Any]:
    """All equations, those of loops and branches too."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from every(inner)


@each_chip
def test_at_most_half_the_bytes_of_the_plain_scan(chip: str) -> None:
    """Where the gates of all steps do not fit in VMEM, of which the plain scan makes an array."""
    for precision in ("highest", "default"):
        program = LARGE.but(precision=precision)
        kernel, scan = (
            hbm_bytes(compiled(program.but(backend=b), chip)) for b in ("pallas", "scan")
        )
        assert kernel <= scan / 2
        through = 2 * 4 * program.time * program.batch * 512  # inputs and outputs
        assert through <= kernel <= 1.2 * through


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
