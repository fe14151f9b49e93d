"""compare: the decision of torch.testing.assert_close, and numbers worked out by hand."""

from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch

import jaxlstm
from jaxlstm.check import compare


@pytest.mark.parametrize("seed", range(60))
def test_agrees_with_assert_close(seed):
    rng = np.random.default_rng(seed)
    dtype = [np.float16, np.float32, np.float64][seed % 3]
    expected = rng.standard_normal((4, 3)).astype(dtype)
    actual = (expected * (1 + rng.standard_normal() * 2 * 10.0 ** rng.integers(-9, -2))).astype(dtype)
    tolerances: dict[str, Any] = {} if seed % 2 else {"rtol": 1e-4, "atol": 0.0}
    try:
        torch.testing.assert_close(torch.from_numpy(actual), torch.from_numpy(expected), **tolerances)
        close = True
    except AssertionError:
        close = False
    assert compare(actual, expected, **tolerances).ok == close


def test_reports_number_size_and_place_of_differences():
    expected = np.array([[1.0, 2.0], [4.0, 0.5]], np.float32)
    actual = expected.copy()
    actual[1, 0] += 4 * 2.0**-21
    actual[0, 0] += 3 * 2.0**-22
    [item] = compare({"w": actual}, {"w": expected}, rtol=0.0, atol=1e-6).items
    assert item.name == "['w']"
    assert item.ok is False
    assert item.data["mismatched"] == 1
    assert item.data["total"] == 4
    assert item.data["absolute"] == {"value": 2.0**-19, "index": (1, 0), "allowed": 1e-6}
    assert item.data["relative"]["value"] == 3 * 2.0**-22
    assert item.detail == (
        "1 of 4 (25 %) differ; worst absolute error 1.9e-06 at (1, 0) (absolute error allowed: 1.0e-06), "
        "worst relative error 7.2e-07 at (0, 0) (absolute error allowed: 1.0e-06)"
    )


def test_our_state_and_torchs_pair():
    """LSTMState is a named tuple, torch's state a plain one."""
    lstm = torch.nn.LSTM(3, 4)
    params, config = jaxlstm.from_torch(lstm)
    x = np.random.default_rng(0).standard_normal((5, 2, 3)).astype(np.float32)
    report = compare(jaxlstm.lstm(params, x, config=config), lstm(torch.from_numpy(x)))
    assert report.ok, str(report)
    assert [item.name for item in report.items] == ["[0]", "[1][0]", "[1][1]"]


def test_nan_and_infinity():
    nan, inf = np.array([np.nan]), np.array([np.inf])
    assert not compare(nan, nan).ok
    assert compare(nan, nan, equal_nan=True).ok
    assert compare(inf, inf).ok
    assert not compare(-inf, inf).ok
    assert not compare(np.ones(1), inf).ok
    assert not compare(inf, np.ones(1), rtol=1.0, atol=1e9).ok
    assert not compare(nan, np.ones(1), rtol=1.0, atol=1e9, equal_nan=True).ok


def test_different_structure_shape_or_dtype():
    a = np.ones(3, np.float32)
    report = compare({"a": a, "b": a}, {"a": a[:2], "c": a})
    details = {item.name: item.detail for item in report.items}
    assert not report.ok
    assert details["['a']"] == "has shape (3,), expected (2,)"
    assert details["['c']"] == "is in expected but not in actual"
    assert details["['b']"] == "is in actual but not in expected"
    other = compare(a, a.astype(np.float64))
    assert not other.ok
    assert "dtype float32, expected float64" in other.items[0].detail
    assert compare(a, a.astype(np.float64), check_dtype=False).ok


def test_accepts_jax_torch_and_integers():
    values = [0.5, -1.25]
    assert compare(jnp.asarray(values), torch.tensor(values)).ok
    assert compare(torch.tensor(values, dtype=torch.bfloat16), np.asarray(values, ml_dtypes.bfloat16)).ok
    assert compare(np.arange(3), np.arange(3)).ok
    assert not compare(np.arange(3), np.arange(3)[::-1].copy()).ok
    assert compare([1.0, (2.0,)], [1.0, (2.0,)]).ok
    assert not compare(np.array(2**60), np.array(2**60 + 1)).ok
    assert compare(np.ones((0, 3)), np.ones((0, 3))).ok


def test_rejects_one_tolerance_and_other_objects():
    for rtol, atol, message in (
        (1e-3, None, "rtol was given without atol"),
        (None, 1e-3, "atol was given without rtol"),
        (0.0, -1.0, "atol must be finite and not negative"),
        (np.inf, 0.0, "rtol must be finite and not negative"),
    ):
        with pytest.raises(ValueError, match=message):
            compare(np.ones(1), np.ones(1), rtol=rtol, atol=atol)
    with pytest.raises(TypeError, match=r"actual.* must be an array of real numbers"):
        compare(np.array(["x"]), np.ones(1))
    with pytest.raises(TypeError, match=r"expected\['x'\] must be an array of real numbers, got"):
        compare({"x": np.ones(1)}, {"x": np.array(["x"])})
    with pytest.raises(TypeError, match="real numbers"):
        compare(np.ones(1) * 1j, np.ones(1))
