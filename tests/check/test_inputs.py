"""The generated inputs have the documented properties and are determined by the seed."""

import numpy as np
import pytest

from jaxlstm.check.cases import inputs as cases
from testing.verification import STRONG


def test_reproducible_from_the_seed():
    for a, b in zip(cases.standard_cases(STRONG, 7), cases.standard_cases(STRONG, 7), strict=True):
        assert np.array_equal(a.inputs, b.inputs, equal_nan=True)
        assert a.initial_state is not None
        assert b.initial_state is not None
        assert np.array_equal(a.initial_state[1], b.initial_state[1])
    other = cases.standard_cases(STRONG, 8)[0]
    assert not np.array_equal(cases.standard_cases(STRONG, 7)[0].inputs, other.inputs)


@pytest.mark.parametrize("seed", range(5))
def test_ragged_lengths_are_unsorted_and_cover_the_range(seed):
    lengths = cases.ordinary_case(STRONG, seed).seq_lengths
    assert lengths is not None
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
