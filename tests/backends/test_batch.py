"""A sequence gives the same result with batch size 1 and in a larger batch, up to rounding, on each backend.

Compilers use other instructions for one row than for many. If one of them has a lower precision (TF32 or
bfloat16), the results differ by 1e-3.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from jaxlstm import LSTMConfig, lstm
from jaxlstm.check.reference.oracle import OracleCall
from jaxlstm.layer.precision import linear
from testing.each_backend import on_each_backend
from testing.verification import random_params

TIME, BATCH = 40, 32
CONFIGS = {
    "plain": LSTMConfig(64, 128),
    "rich": LSTMConfig(40, 64, num_layers=2, bidirectional=True, proj_size=32),
}
# Outputs are below 1. The rounding error of TF32 is 2**-11, about 500 times as large.
ROUNDING = 8 * np.finfo(np.float32).eps


def largest_difference(config: LSTMConfig, run: Any) -> float:
    """Return the largest difference between a sequence with batch size 1, in a batch, and in float64."""
    rng = np.random.default_rng(0)
    params = random_params(config, scale=2.0)
    x = rng.standard_normal((TIME, BATCH, config.input_size)).astype(np.float32)
    lengths = rng.integers(1, TIME + 1, BATCH).astype(np.int32)
    together = np.asarray(run(params, x, lengths))
    truth = OracleCall.of(params, x, None, lengths, config).run().outputs
    worst = np.abs(together - truth).max()
    for row in (0, BATCH // 2, BATCH - 1):
        alone = np.asarray(run(params, x[:, row : row + 1], lengths[row : row + 1]))[:, 0]
        for other in (together[:, row], truth[:, row]):
            worst = max(worst, np.abs(alone - other).max())
    return float(worst)


def layer(config: LSTMConfig, **options: Any) -> Any:
    return jax.jit(lambda params, x, n: lstm(params, x, config=config, seq_lengths=n, **options)[0])


@on_each_backend("config", list(CONFIGS))
@pytest.mark.parametrize("path", ["auto", "scan"])
def test_batch_of_one_and_of_many(backend: str, config: str, path: str) -> None:
    assert largest_difference(CONFIGS[config], layer(CONFIGS[config], backend=path)) < ROUNDING


@on_each_backend()
def test_detects_lower_precision_for_one_row(backend: str) -> None:
    config = CONFIGS["plain"]
    right = layer(config)

    def coarse_alone(params: Any, x: Any, n: Any) -> Any:
        if x.shape[1] == 1:
            x = jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=10)
        return right(params, x, n)

    assert largest_difference(config, coarse_alone) > 2 * ROUNDING


@on_each_backend("rows", [1, 3, 256])
def test_highest_is_float32(backend: str, rows: int) -> None:
    """``linear`` has float32 accuracy, in the shapes of one step and of many."""
    rng = np.random.default_rng(rows)
    x = rng.standard_normal((rows, 256)).astype(np.float32)
    w = rng.standard_normal((512, 256)).astype(np.float32)
    product = np.asarray(jax.jit(lambda x, w: linear(x, w, precision="highest"))(x, w))
    true = x.astype(np.float64) @ w.astype(np.float64).T
    error = np.sqrt(np.mean((product - true) ** 2))
    # The sum has 256 terms of size 1. The error of TF32 is 50 times the tolerance.
    assert error < 16 * np.finfo(np.float32).eps * np.sqrt(256)
