"""The programs before any compiler: what JAX makes of a call does not grow with the sequence."""

from __future__ import annotations

import re

import jax
import pytest

from tests.aot.programs import FORMS, Program

SCANS = [form.but(gradient=True) for form in FORMS]  # with the forward pass in them
KERNELS = [program.but(backend="pallas") for program in SCANS]
NUMBER = re.compile(r"\d+")
MACHINE_CODE = 64  # characters: a kernel stands there encoded, and a larger number may be longer


def lowered(program: Program, platform: str) -> str:
    """StableHLO, with the kernels in it as Triton's or Mosaic's; each number is a 0."""
    traced = jax.jit(program.function()).trace(*program.arguments())
    return NUMBER.sub("0", traced.lower(lowering_platforms=(platform,)).as_text())


@pytest.mark.parametrize("program", SCANS, ids=str)
def test_the_plain_scan_is_the_same_for_any_number_of_steps(program: Program) -> None:
    short, long = (lowered(program.but(time=time), "tpu") for time in (24, 2400))
    assert short == long


@pytest.mark.parametrize("program", KERNELS, ids=str)
def test_the_kernels_are_as_long_for_any_number_of_steps(program: Program) -> None:
    short, long = (lowered(program.but(time=time), "tpu") for time in (24, 2400))
    assert short.count("custom_call") == long.count("custom_call") > 0
    assert abs(len(short) - len(long)) <= MACHINE_CODE
