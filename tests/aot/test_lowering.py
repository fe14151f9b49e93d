"""The size of the lowered programs, before compilation, does not depend on the number of time steps."""

from __future__ import annotations

import re

import jax
import pytest

from testing.aot.programs import FORMS, Program

# A gradient contains the forward pass.
SCANS = [form.but(gradient=True) for form in FORMS]
KERNELS = [program.but(backend="pallas") for program in SCANS]
NUMBER = re.compile(r"\d+")

ENCODING = 64
"""Characters that an encoded kernel may grow by because larger numbers have longer encodings."""


def lowered(program: Program, platform: str) -> str:
    """Return the StableHLO of a program, kernels included, with 0 for each number."""
    traced = jax.jit(program.function()).trace(*program.arguments())
    return NUMBER.sub("0", traced.lower(lowering_platforms=(platform,)).as_text())


@pytest.mark.parametrize("program", SCANS, ids=str)
def test_the_plain_scan_does_not_depend_on_time(program: Program) -> None:
    short, long = (lowered(program.but(time=time), "tpu") for time in (24, 2400))
    assert short == long


@pytest.mark.parametrize("program", KERNELS, ids=str)
def test_kernels_do_not_grow_with_time(program: Program) -> None:
    short, long = (lowered(program.but(time=time), "tpu") for time in (24, 2400))
    assert short.count("custom_call") == long.count("custom_call") > 0
    assert abs(len(short) - len(long)) <= ENCODING
