"""The plain scan and the TPU kernel, compiled for v5e and v6e."""

from __future__ import annotations

import pytest

from jaxlstm import LSTMConfig
from testing.aot.programs import FORMS, MAX_EXTRA_INSTRUCTIONS, Program, grouped_by_program
from testing.aot.tpu import compiled, each_chip

PROGRAMS = [
    form.but(gradient=gradient, backend=backend)
    for form in FORMS
    for backend in ("scan", "pallas")
    for gradient in (False, True)
]
each_program = grouped_by_program(PROGRAMS)


def directions(config: LSTMConfig) -> int:
    return config.num_layers * config.num_directions


@each_chip
@each_program
def test_only_recurrent_products_are_in_the_loop(program: Program, chip: str) -> None:
    hlo, config = compiled(program, chip), program.config
    assert {product.precision for product in hlo.products()} <= {"highest"}
    assert hlo.hoistable() == []
    assert hlo.collectives() == []
    inside = sum(product.in_loop for product in hlo.products())
    recurrent = directions(config) * (2 if config.proj_size else 1)
    if program.backend == "scan":
        assert inside == recurrent * (2 if program.gradient else 1)
    else:
        assert hlo.loops == ()
        calls = directions(config) * (2 if program.gradient else 1)
        assert hlo.text.count('custom_call_target="tpu_custom_call"') == calls


@each_chip
@each_program
def test_size_does_not_grow_with_time(program: Program, chip: str) -> None:
    """At both lengths every array fits in VMEM. Longer programs have another layout."""
    short, long = (compiled(program.but(time=t), chip) for t in (24, 120))
    assert len(short.loops) == len(long.loops)
    assert long.size - short.size <= MAX_EXTRA_INSTRUCTIONS


@each_chip
@pytest.mark.parametrize("precision", ["highest", "high", "default"])
@pytest.mark.parametrize("gradient", [False, True], ids=["forward", "gradient"])
def test_products_have_the_requested_precision(gradient: bool, precision: str, chip: str) -> None:
    for backend in ("scan", "pallas"):
        program = FORMS[0].but(gradient=gradient, precision=precision, backend=backend)
        precisions = {product.precision for product in compiled(program, chip).products()}
        # A kernel contains its own products, which XLA does not see.
        expected = {precision} if gradient or backend == "scan" else set()
        assert precisions == expected


@each_chip
def test_the_plain_scan_keeps_recurrent_weights_in_vmem(chip: str) -> None:
    """The loop carries the weights in S(1), which is VMEM."""
    program = FORMS[0].but(config=LSTMConfig(512, 512), batch=32, time=256)
    (loop,) = compiled(program, chip).loops
    weights = [shape for shape in loop.line.split(") while(")[0].split(" ") if "[2048,512]" in shape]
    assert len(weights) == 1
    assert "S(1)" in weights[0]
