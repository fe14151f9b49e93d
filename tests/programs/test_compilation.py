"""The size of a compiled program follows the number of nodes, not the number of time steps."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np

from jaxlstm import Program, load_program

DEMO = Path(__file__).parents[2] / "examples" / "demo.pt2"


def equations(program: Program, steps: int) -> int:
    """Return the lines of the program of XLA before its optimizations."""
    characters = jax.ShapeDtypeStruct((2, steps), np.int32)
    return len(jax.jit(program).lower(program.params, characters).as_text().splitlines())


def test_size_does_not_depend_on_the_length() -> None:
    program = load_program(DEMO)
    for backend in ("auto", "scan"):
        sizes = {equations(program.with_options(backend=backend), steps) for steps in (64, 512, 8192)}
        assert len(sizes) == 1
        assert sizes.pop() < 1000
