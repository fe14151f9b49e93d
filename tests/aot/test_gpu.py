"""The plain scan, compiled for an H100 and an A100.

cuDNN is missing here: JAX asks the device for the size of cuDNN's workspace, so it cannot lower cuDNN calls
without a GPU.
"""

from __future__ import annotations

import pytest

from jaxlstm import LSTMConfig
from testing.aot.gpu import compiled, each_chip
from testing.aot.programs import FORMS, MAX_EXTRA_INSTRUCTIONS, Program, grouped_by_program

PROGRAMS = [form.but(gradient=gradient) for form in FORMS for gradient in (False, True)]
each_program = grouped_by_program(PROGRAMS)


def expected_loops(program: Program) -> int:
    """Return one loop per layer, direction and pass; a gradient has a forward and a backward pass."""
    config: LSTMConfig = program.config
    return config.num_layers * config.num_directions * (2 if program.gradient else 1)


@each_chip
@each_program
def test_only_recurrent_products_are_in_the_loop(program: Program, chip: str) -> None:
    hlo = compiled(program, chip)
    assert {product.precision for product in hlo.products()} <= {"highest"}
    assert hlo.hoistable() == []
    assert hlo.collectives() == []
    inside = [product for product in hlo.products() if product.in_loop]
    # XLA may compute a mask in a separate loop.
    assert len(hlo.loops) >= expected_loops(program)
    assert len(inside) == expected_loops(program) * (2 if program.config.proj_size else 1)


@each_chip
@each_program
def test_size_does_not_grow_with_time(program: Program, chip: str) -> None:
    short, long = (compiled(program.but(time=t), chip) for t in (24, 120))
    assert len(short.loops) == len(long.loops)
    assert long.size - short.size <= MAX_EXTRA_INSTRUCTIONS


@each_chip
@pytest.mark.parametrize("precision", ["highest", "high", "default"])
@pytest.mark.parametrize("gradient", [False, True], ids=["forward", "gradient"])
def test_products_have_the_requested_precision(gradient: bool, precision: str, chip: str) -> None:
    program = FORMS[0].but(gradient=gradient, precision=precision)
    precisions = {product.precision for product in compiled(program, chip).products()}
    assert precisions == {precision}
