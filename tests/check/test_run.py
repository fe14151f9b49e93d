"""A running verification: its reference and its limits."""

from __future__ import annotations

import numpy as np
import pytest

from jaxlstm.check import verify
from jaxlstm.check.cases import lstm as cases
from jaxlstm.check.criteria import catalogue
from jaxlstm.check.criteria.criterion import Measurement
from jaxlstm.check.reference.oracle_lstm import OracleLSTM
from jaxlstm.layer.config import LSTMConfig
from testing.verification import needs_torch, random_params, run_of, status
from testing.wrong_ports import WrongPort

CONFIG = LSTMConfig(3, 4, num_layers=2)
PARAMS = random_params(CONFIG)


@needs_torch
def test_torch_is_the_truth_without_the_oracle():
    """With gradients; here both references agree up to rounding."""
    run, _ = run_of(WrongPort(CONFIG), PARAMS, CONFIG, references=("torch",))
    case = cases.ordinary_case(CONFIG)
    found = run.truth.run(case, np.float64, gradients=True).arrays()
    expected = OracleLSTM(PARAMS, CONFIG).run(case, gradients=True).arrays()
    assert set(found) == set(expected)
    for name, a in expected.items():
        np.testing.assert_allclose(found[name], a, rtol=0, atol=1e-12, err_msg=name)


@pytest.mark.parametrize(("ratio", "verdict"), [(0.99, "ok"), (1.0, "FAILED")])
def test_step_residual_has_a_bound(monkeypatch, ratio, verdict):
    found = Measurement(ratio, 1.0, "layer 1")
    monkeypatch.setattr(catalogue, "step_residual", lambda *arguments, **options: found)
    report = verify(WrongPort(CONFIG), PARAMS, CONFIG, gradients=False, against="oracle", seconds=0)
    assert status(report)["step residual"] == verdict
