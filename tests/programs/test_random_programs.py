"""Programs of random models, which the package nnsmith built, give the results that torch gave."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

import jaxlstm

SAMPLES = sorted(Path(__file__).with_name("random_programs").glob("*.pt2"))


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_results_equal_torch(path: Path) -> None:
    recorded = np.load(path.with_suffix(".npz"))
    inputs = [recorded[name] for name in recorded if name.startswith("in.")]
    expected = [recorded[name] for name in recorded if name.startswith("out.")]
    with jax.enable_x64(True):
        program = jaxlstm.load_program(path)
        results = jax.tree.leaves(jax.jit(program.__call__)(program.params, *inputs))
    for actual, theirs in zip(results, expected, strict=True):
        assert (actual.dtype, actual.shape) == (theirs.dtype, theirs.shape)
        rtol = 200 * np.finfo(theirs.dtype).eps if np.issubdtype(theirs.dtype, np.floating) else 0
        np.testing.assert_allclose(actual, theirs, rtol=rtol)


def test_there_are_samples() -> None:
    assert len(SAMPLES) == 20
