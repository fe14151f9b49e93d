"""Parameters to save, and their comparison bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxlstm import LSTMConfig, param_shapes


def random_params(config: LSTMConfig, dtype: Any, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {n: rng.standard_normal(s).astype(dtype) for n, s in param_shapes(config).items()}


def same_bits(a: Any, b: Any) -> bool:
    return a.keys() == b.keys() and all(
        np.asarray(a[n]).dtype == np.asarray(b[n]).dtype
        and np.asarray(a[n]).tobytes() == np.asarray(b[n]).tobytes()
        for n in a
    )
