"""Random inputs of a program, for a comparison of two ways to run it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxlstm.models.program import Program

SIZES = (5, 16, 64, 256, 1024, 4096, 16384)
"""Sizes to try for the free axes. A program may refuse small ones, for example after several poolings."""


def random_inputs(program: Program) -> list[np.ndarray] | None:
    """Return the tensors among the inputs of a program, or None if it takes no size of ``SIZES``.

    Integers are 0 or 1, which are valid indices of every larger table.
    """
    axes = [size for declared in program.inputs if declared.type for size in declared.type.shape]
    names = list(dict.fromkeys(size for size in axes if isinstance(size, str)))
    rng = np.random.default_rng(0)
    for smallest in SIZES:
        sizes = {name: smallest + index for index, name in enumerate(names)}
        # The first free axis is usually the batch.
        sizes.update((name, min(sizes[name], 3)) for name in names[:1])
        sizes = {name: _clipped(program, name, size) for name, size in sizes.items()}
        tensors = [
            _random(rng, declared.type.dtype, [sizes.get(s, s) for s in declared.type.shape])  # type: ignore[arg-type]
            for declared in program.inputs
            if declared.type is not None
        ]
        if _accepts(program, tensors):
            return tensors
    return None


def _clipped(program: Program, axis: str, size: int) -> int:
    low, high = program.graph.size_range(axis)
    return max(low, size if high is None else min(size, high))


def _random(rng: np.random.Generator, dtype: np.dtype, shape: list[int]) -> np.ndarray:
    if dtype.kind in "biu":
        return rng.integers(0, 2, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


def _accepts(program: Program, tensors: list[np.ndarray]) -> bool:
    import jax

    from jaxlstm.inference.program_artifact import positional
    from jaxlstm.models.errors import ProgramError

    try:
        jax.eval_shape(positional(program), program.params, *tensors)
    except ProgramError:
        return False
    return True
