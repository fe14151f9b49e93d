"""The generated inputs have the documented properties and are determined by the seed."""

import jax
import numpy as np
import pytest

from jaxlstm.check.cases import inputs as cases
from testing.verification import STRONG


def test_reproducible_from_the_seed():
    first, again, other = (cases.standard_cases(STRONG, seed) for seed in (7, 7, 8))
    for a, b in zip(first, again, strict=True):
        jax.tree.map(np.testing.assert_array_equal, a.arrays, b.arrays)
    assert not np.array_equal(first[0].inputs, other[0].inputs)


@pytest.mark.parametrize("seed", range(5))
def test_ragged_lengths_are_unsorted_and_cover_the_range(seed):
    lengths = cases.ordinary_case(STRONG, seed).arrays["seq_lengths"]
    assert lengths.min() == 1
    assert lengths.max() == cases.RAGGED_TIME
    assert np.any(np.diff(lengths) > 0)
    assert lengths.dtype == np.int32


def test_shapes_and_magnitudes():
    found = {case.name: case for case in cases.standard_cases(STRONG)}
    assert found["batch 1"].inputs.shape[1] == 1
    assert found["one step"].inputs.shape[0] == 1
    assert found["long"].inputs.shape[0] >= 100
    assert np.abs(found["saturating"].inputs).max() > 10
    assert np.abs(found["tiny"].inputs).max() < 1e-3
    nan = found["NaN and Inf"]
    bad = ~np.isfinite(nan.inputs).all(-1) & nan.valid
    # Two rows; the others have no NaN.
    assert bad.any(0).sum() == 2
    assert np.isnan(nan.inputs[~nan.valid]).any()
