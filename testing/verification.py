"""Random parameters, configs that together cover every feature, and verifications to run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from jaxlstm.check.criteria.catalogue import CRITERIA
from jaxlstm.check.reference import torch_lstm
from jaxlstm.check.report.report import Report
from jaxlstm.check.requirements import require_references
from jaxlstm.check.subjects.port import Port, PortSubject
from jaxlstm.check.verification import Verification
from jaxlstm.layer.config import LSTMCellConfig, LSTMConfig
from jaxlstm.layer.params import init_bound, param_shapes

CONFIGS = {
    "plain": LSTMConfig(3, 5),
    "no bias": LSTMConfig(4, 3, num_layers=2, bias=False),
    "bidirectional": LSTMConfig(3, 4, num_layers=3, bidirectional=True),
    "projected": LSTMConfig(2, 5, num_layers=2, proj_size=3),
    "everything": LSTMConfig(3, 5, num_layers=3, bidirectional=True, proj_size=2),
    "cell": LSTMCellConfig(4, 3),
}
STRONG = CONFIGS["everything"]


def random_params(
    config: LSTMConfig, seed: int = 0, *, scale: float = 1.0, dtype: object = np.float32
) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    bound = scale * init_bound(config)
    return {
        name: rng.uniform(-bound, bound, shape).astype(dtype)  # type: ignore[arg-type]
        for name, shape in param_shapes(config).items()
    }


def run_of(
    port: Callable[..., Any],
    params: dict[str, np.ndarray],
    config: LSTMConfig,
    *,
    references: tuple[str, ...],
) -> tuple[Verification, PortSubject]:
    """Return a float32 verification with gradients that has not started, and its subject."""
    subject = PortSubject(Port.of(port), params, config, "highest")
    named = require_references(references, params, config)
    return Verification(subject, named, CRITERIA, np.dtype(np.float32), 0, gradients=True), subject


def status(report: Report) -> dict[str, str]:
    """Return the status of each item of `report`: "ok", "FAILED" or "untested"."""
    return {item.name: item.status for item in report.items}


needs_torch = pytest.mark.skipif(not torch_lstm.is_available(), reason="torch is not installed")
