"""Every program of the table compiles for a TPU, and what comes out is what was meant."""

from __future__ import annotations

import pytest

from jaxlstm import LSTMConfig
from tests.aot.programs import FORMS, MAX_EXTRA_INSTRUCTIONS, Program, grouped_by_program
from tests.aot.tpu.chips import compiled, each_chip

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
def test_it_compiles_with_every_product_in_its_place(program: Program, chip: str) -> None:
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
def test_its_size_does_not_grow_with_time(program: Program, chip: str) -> None:
    """What the compiler gets does not, see ``tests/aot/test_programs.py``; nor does it unroll that.

    At both lengths every array fits in VMEM; beyond, the program is laid out in another way, once.
    """
    short, long = (compiled(program.but(time=t), chip) for t in (24, 120))
    assert len(short.loops) == len(long.loops)
    assert long.size - short.size <= MAX_EXTRA_INSTRUCTIONS


@each_chip
@pytest.mark.parametrize("precision", ["highest", "high", "default"])
@pytest.mark.parametrize("gradient", [False, True], ids=["forward", "gradient"])
def test_each_product_has_the_precision_asked_for(
    gradient: bool, precision: str, chip: str
) -> None:
    for backend in ("scan", "pallas"):
        program = FORMS[0].but(gradient=gradient, precision=precision, backend=backend)
        found = [product.precision for product in compiled(program, chip).products()]
        assert set(found) <= {precision}
        assert bool(found) == (gradient or backend == "scan")  # the kernel's own are not XLA's


@each_chip
def test_recurrent_weights_stay_in_vmem_in_the_plain_scan(chip: str) -> None:
    """S(1) is VMEM: what the loop carries from step to step is there."""
    program = FORMS[0].but(config=LSTMConfig(512, 512), batch=32, time=256)
    (loop,) = compiled(program, chip).loops
    weights = [
        shape for shape in loop.line.split(") while(")[0].split(" ") if "[2048,512]" in shape
    ]
    assert len(weights) == 1
    assert "S(1)" in weights[0]
