"""The plain scan and the TPU kernels, compiled for TPUs and GPUs: loops and precision.

cuDNN is missing here: JAX asks the device for the size of cuDNN's workspace, so it cannot lower cuDNN calls
without a GPU.
"""

from __future__ import annotations

import pytest

from testing.aot.programs import CHIPS, FORMS, Program, compiled, each_chip

PROGRAMS = [
    form.but(gradient=gradient, backend=backend)
    for form in FORMS
    for backend in ("scan", "pallas")
    for gradient in (False, True)
]
each_program = pytest.mark.parametrize("program", PROGRAMS, ids=str)
on_each_chip = each_chip("tpu", "cuda")


@pytest.fixture(autouse=True)
def kernels_run_on_tpus(program: Program, chip: str) -> None:
    if program.backend == "pallas" and chip not in CHIPS["tpu"]:
        pytest.skip("the kernel is for TPUs")


@on_each_chip
@each_program
def test_only_recurrent_products_are_in_the_loop(program: Program, chip: str) -> None:
    """A loop computes one product per step, two with a projection. A gradient has two passes."""
    hlo, config = compiled(program, chip), program.config
    assert {product.precision for product in hlo.products()} <= {"highest"}
    assert hlo.collectives() == []
    passes = config.num_layers * config.num_directions * (2 if program.gradient else 1)
    if program.backend == "scan":
        # XLA may compute a mask in a separate loop.
        assert len(hlo.loops) >= passes
        assert hlo.products_in_loops() == passes * (2 if config.proj_size else 1)
    else:
        assert hlo.loops == []
        assert hlo.text.count('custom_call_target="tpu_custom_call"') == passes


@on_each_chip
@pytest.mark.parametrize("precision", ["highest", "high", "default"])
@pytest.mark.parametrize("program", [program for program in PROGRAMS if program.name == "plain"], ids=str)
def test_products_have_the_requested_precision(program: Program, precision: str, chip: str) -> None:
    precisions = {
        product.precision for product in compiled(program.but(precision=precision), chip).products()
    }
    # A kernel contains its own products, which XLA does not see.
    assert precisions == ({precision} if program.gradient or program.backend == "scan" else set())
