"""What the kernels for GPUs promise: weights that fit are read once, tensor cores where they may be used."""

from __future__ import annotations

import pytest

from jaxlstm import LSTMConfig
from jaxlstm.kernels.gpu.plan import LARGEST
from tests.aot.gpu.chips import KERNEL, compiled, each_chip
from tests.aot.programs import Program

PLAIN = Program("plain", LSTMConfig(64, 64), backend="pallas", gradient=True)


def of_units(hidden_size: int, **settings: str) -> Program:
    return PLAIN.but(config=LSTMConfig(64, hidden_size), **settings)


def in_the_loop(program: Program, chip: str) -> list[int]:
    """The reads of one step, forwards and backwards, of which the latter has more."""
    return sorted(kernel.loads_in_the_loop for kernel in compiled(program, chip).kernels)


@each_chip
@pytest.mark.parametrize("precision", ["highest", "high"])
def test_weights_that_fit_are_read_before_the_first_step(precision: str, chip: str) -> None:
    """In a step what depends on it is read, gates and derivative, however many units there are."""
    small, large, beyond = (
        in_the_loop(of_units(size, precision=precision), chip) for size in (32, 64, 128)
    )
    for few, more, many in zip(small, large, beyond, strict=True):
        assert more <= 2 * few
        assert many > 4 * more  # 128 units in float32 do not fit
    for kernel in compiled(of_units(128, dtype="bfloat16"), chip).kernels:
        assert kernel.loads_in_the_loop < kernel.loads_before_the_loop


@each_chip
def test_half_precision_is_on_tensor_cores_and_float32_is_not(chip: str) -> None:
    for kernel in compiled(of_units(64, dtype="bfloat16"), chip).kernels:
        assert kernel.bf16_products > 0
        assert kernel.tf32_products == 0
    for kernel in compiled(of_units(64), chip).kernels:
        assert kernel.bf16_products == kernel.tf32_products == 0


@each_chip
@pytest.mark.parametrize(
    "program",
    [
        PLAIN.but(time=13, batch=300, ragged=True),
        PLAIN.but(time=1, batch=1, config=LSTMConfig(1, 1)),
        PLAIN.but(time=50, batch=17, config=LSTMConfig(3, 40), precision="high"),
        PLAIN.but(config=LSTMConfig(8, LARGEST), batch=33, precision="high"),
        PLAIN.but(config=LSTMConfig(8, LARGEST), batch=33),
        PLAIN.but(
            config=LSTMConfig(8, LARGEST, proj_size=200, bidirectional=True), dtype="float16"
        ),
    ],
    ids=lambda p: f"T{p.time}-B{p.batch}-H{p.config.hidden_size}-{p.dtype}-{p.precision}",
)
def test_any_size_compiles(program: Program, chip: str) -> None:
    hlo, kernels = compiled(program, chip)
    assert hlo.text.count(KERNEL) == len(kernels) == 2 * program.config.num_directions


@each_chip
def test_more_units_than_it_takes_are_an_error(chip: str) -> None:
    with pytest.raises(ValueError, match=rf"hidden_size up to {LARGEST}, got {LARGEST + 1}"):
        compiled(of_units(LARGEST + 1), chip)
