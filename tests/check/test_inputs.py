"""The generated inputs have the documented properties and are determined by the seed."""

from __future__ import annotations

import numpy as np
import pytest

from jaxlstm.check.cases import inputs as cases
from testing.verification import CONFIGS, STRONG


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


def test_every_length_occurs():
    ragged = [cases.ordinary_case(STRONG, seed) for seed in range(40)]
    lengths = [case.seq_lengths for case in ragged if case.seq_lengths is not None]
    assert set(np.concatenate(lengths)) == set(range(1, cases.RAGGED_TIME + 1))


def test_gradients_at_two_shapes():
    asked = [case for case in cases.standard_cases(STRONG) if case.differentiate]
    assert [case.name for case in asked] == ["ragged", "saturating", "tiny", "dense"]
    assert {case.inputs.shape[:2] for case in asked} == {(cases.RAGGED_TIME, 5), (6, 6)}


def test_one_step_starts_from_zeros():
    (case,) = (case for case in cases.standard_cases(STRONG) if case.name == "one step from zeros")
    assert case.initial_state is not None
    for state, shape in zip(case.initial_state, STRONG.state_shapes(3), strict=True):
        assert state.shape == shape
        assert not state.any()


def test_large_cell_states():
    (case,) = (case for case in cases.standard_cases(STRONG) if case.name == "large c")
    assert case.initial_state is not None
    h_0, c_0 = case.initial_state
    assert 100 <= np.abs(c_0).min() < 1000 < np.abs(c_0).max() <= cases.LARGE_C
    assert c_0.min() < 0 < c_0.max()
    assert np.abs(h_0).max() <= 1
    assert case.inputs.shape[:2] == (1, 3)


def test_states_and_padding():
    for case in cases.standard_cases(CONFIGS["bidirectional"]):
        if case.name == "one step from zeros":
            continue
        assert case.initial_state is not None
        h_0, c_0 = case.initial_state
        assert np.all(h_0 != 0)
        assert np.all(h_0 != c_0)
        assert np.all(case.inputs[~case.valid] != 0)


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


def test_astype_rounds_every_number():
    case = cases.ordinary_case(STRONG).astype(np.float16)
    assert case.initial_state is not None
    arrays = (case.inputs, *case.initial_state, *case.cotangents.values())
    assert {a.dtype for a in arrays} == {np.dtype(np.float16)}


def test_without():
    case = cases.ordinary_case(STRONG).without("h_0", "c_0", "seq_lengths")
    assert case.initial_state is None
    assert case.valid.all()
