"""Every program of the table compiles for an H100 and an A100, and what comes out is what was meant."""

from __future__ import annotations

import pytest

from jaxlstm import LSTMConfig
from tests.aot.gpu.chips import KERNEL, compiled, each_chip
from tests.aot.programs import A_FEW, FORMS, Program, each_in_one_process

# cuDNN is not among them: JAX asks the device how much memory it wants, and lowers nothing without one.
PROGRAMS = [
    form.but(gradient=gradient, backend=backend)
    for form in FORMS
    for backend in ("scan", "pallas")
    for gradient in (False, True)
]
each_program = each_in_one_process(PROGRAMS)


def calls(program: Program) -> int:
    """How often the recurrence is run: for each layer and direction, there and for a gradient back."""
    config: LSTMConfig = program.config
    return config.num_layers * config.num_directions * (2 if program.gradient else 1)


@each_chip
@each_program
def test_it_compiles_with_every_product_in_its_place(program: Program, chip: str) -> None:
    hlo, _ = compiled(program, chip)
    assert {product.precision for product in hlo.products()} <= {"highest"}
    assert hlo.hoistable() == []
    assert hlo.collectives() == []
    inside = [product for product in hlo.products() if product.in_loop]
    if program.backend == "pallas":
        assert hlo.loops == ()
        assert hlo.text.count(KERNEL) == calls(program)
    else:
        assert len(hlo.loops) >= calls(program)  # XLA may write a mask in one of its own
        assert len(inside) == calls(program) * (2 if program.config.proj_size else 1)


@each_chip
@each_program
def test_its_size_does_not_grow_with_time(program: Program, chip: str) -> None:
    """What the compilers get does not, see ``tests/aot/test_programs.py``; nor do they unroll that."""
    (short, kernels), (long, longer_kernels) = (
        compiled(program.but(time=t), chip) for t in (24, 120)
    )
    assert len(short.loops) == len(long.loops)
    assert long.size - short.size <= A_FEW
    assert sorted(len(k.lines) for k in kernels) == sorted(len(k.lines) for k in longer_kernels)


@each_chip
@pytest.mark.parametrize(
    ("precision", "tf32"), [("highest", False), ("high", True), ("default", True)]
)
@pytest.mark.parametrize("gradient", [False, True], ids=["forward", "gradient"])
def test_tf32_is_there_if_asked_for(gradient: bool, precision: str, tf32: bool, chip: str) -> None:
    """In XLA's products by what they were asked for, in the kernels by their instructions."""
    for backend in ("scan", "pallas"):
        program = FORMS[0].but(gradient=gradient, precision=precision, backend=backend)
        hlo, kernels = compiled(program, chip)
        found = [product.precision for product in hlo.products()]
        assert set(found) == {precision}
        assert len(kernels) == (calls(program) if backend == "pallas" else 0)
        assert [kernel.tf32_products > 0 for kernel in kernels] == [tf32] * len(kernels)
