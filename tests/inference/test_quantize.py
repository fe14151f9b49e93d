"""Weights in 8 bits: each element within half a scale, and a Runner that uses just those."""

from __future__ import annotations

import numpy as np
import pytest

from jaxlstm import LSTMConfig
from jaxlstm.inference import compile
from jaxlstm.inference.quantize import Quantized, prepare, quantize, restore
from tests.inference.helpers import normal, reference, weights

CONFIG = LSTMConfig(5, 12)


def test_each_element_is_within_half_a_scale() -> None:
    matrix = normal(6, 9) * np.array([1, 100, 1e-3, 1, 1, 0], np.float32)[:, None]
    found = quantize(matrix, np.dtype(np.float32))
    assert found.values.dtype == np.int8
    assert (np.abs(found.values).max(axis=1) == [127] * 5 + [0]).all()
    error = np.abs(found.values * np.asarray(found.scales, np.float64) - matrix)
    assert (error <= 0.5001 * found.scales).all()
    with pytest.raises(ValueError, match="needs finite weights"):
        quantize(np.full((2, 2), np.nan), np.dtype(np.float32))


def test_a_runner_computes_with_the_rounded_weights() -> None:
    params = weights(CONFIG)
    prepared = prepare(params, np.dtype(np.float32), "int8")
    kinds = {name: isinstance(leaf, Quantized) for name, leaf in prepared.items()}
    assert kinds == {name: name.startswith("weight") for name in params}
    x = normal(20, 2, 5)
    runner = compile(params, CONFIG, max_length=32, max_batch=2, weights="int8", backend="scan")
    outputs, _ = runner(x)
    rounded, _ = reference(restore(prepared, np.float32), x, config=CONFIG)
    exact, _ = reference(params, x, config=CONFIG)
    np.testing.assert_allclose(outputs, rounded, rtol=0, atol=1e-6)
    assert 1e-4 < np.abs(outputs - exact).max() < 2e-2
