"""The one module that imports torch: exact products, nothing of the caller's disturbed, every dtype."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from jaxlstm.check import inputs, torch_runner
from tests.check.helpers import CONFIGS, STRONG, random_params


def test_settings_and_random_state_are_left_as_they_were():
    rnn: Any = torch.backends.cudnn.rnn
    before = rnn.fp32_precision
    rnn.fp32_precision = "tf32"
    try:
        state = torch.random.get_rng_state()
        case = inputs.ordinary_case(STRONG)
        torch_runner.run(random_params(STRONG), STRONG, case, np.float32, gradients=True)
        assert torch_runner.environment()["torch.backends.cudnn.rnn.fp32_precision"] == "ieee"
        assert rnn.fp32_precision == "tf32"
        assert torch.equal(torch.random.get_rng_state(), state)
    finally:
        rnn.fp32_precision = before


def test_a_cell_runs_over_time():
    config = CONFIGS["cell"]
    params = random_params(config, dtype=np.float64)
    case = inputs.make_case("t", config, np.random.default_rng(0), time=6, batch=3)
    cell = torch.nn.LSTMCell(config.input_size, config.hidden_size, dtype=torch.float64)
    cell.load_state_dict({name: torch.from_numpy(a) for name, a in params.items()})
    assert case.initial_state is not None
    h, c = (torch.from_numpy(a[0]) for a in case.initial_state)
    outputs = []
    with torch.no_grad():
        for x in torch.from_numpy(case.inputs):
            h, c = cell(x, (h, c))
            outputs.append(h.numpy())
    answer = torch_runner.run(params, config, case, np.float64, gradients=True)
    np.testing.assert_allclose(answer.outputs, np.stack(outputs), rtol=0, atol=1e-15)
    assert answer.gradients is not None
    assert answer.gradients.keys() == {*params, "inputs", "h_0", "c_0"}


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_answers_in_the_dtype(dtype):
    case = inputs.ordinary_case(STRONG)
    answer = torch_runner.run(random_params(STRONG), STRONG, case, dtype, gradients=True)
    assert {a.dtype for a in answer.everything().values()} == {np.dtype(dtype)}
    assert not answer.outputs[~case.valid].any()


def test_the_checker_loads_without_torch():
    code = "import sys, jaxlstm.check; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
