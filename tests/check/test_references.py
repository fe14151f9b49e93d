"""The references: the oracle against torch in float64, and the settings, sizes and programs of torch."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from jaxlstm.check.cases import inputs as cases
from jaxlstm.check.cases.case import Case
from jaxlstm.check.reference import torch_lstm, torch_precision
from jaxlstm.check.reference.oracle_lstm import OracleLSTM
from jaxlstm.check.reference.torch_lstm import TorchLSTM
from jaxlstm.check.reference.torch_model import TorchModel
from testing.modules import module_of
from testing.verification import CONFIGS, STRONG, random_params


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_agrees_with_torch(config):
    params = random_params(config, dtype=np.float64)
    for case in cases.standard_cases(config, seed=1)[:-1]:  # torch cannot pack a sequence of length 0.
        references = OracleLSTM(params, config), TorchLSTM(params, config)
        ours, theirs = (r.run(case, gradients=case.differentiate).arrays() for r in references)
        assert ours.keys() == theirs.keys()
        assert any(leaf.startswith("d ") for leaf in ours) == case.differentiate
        rtol = 1e-15 if case.scale > 1 else 0  # the spacing of large numbers is above 1e-14
        for leaf, a in ours.items():
            b = theirs[leaf]
            atol = 1e-12 * np.max(np.abs(b)) if leaf.startswith("d ") else 1e-14
            np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, err_msg=f"{case.name} {leaf}")


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_results_have_the_dtype(dtype):
    case = cases.ordinary_case(STRONG)
    results = TorchLSTM(random_params(STRONG), STRONG).run(case, dtype, gradients=True)
    assert {a.dtype for a in results.arrays().values()} == {np.dtype(dtype)}
    assert not results.outputs["outputs"][~case.valid].any()


def test_settings_and_random_state_are_restored():
    """On the CPU, torch computes a bfloat16 projection in higher precision."""
    found = torch_lstm.environment()
    assert found["torch"] == torch.__version__
    assert found["torch.cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    assert found["torch.mkldnn"] == str(torch.backends.mkldnn.is_available())
    exact = [name for name in found if name.endswith("fp32_precision")]
    assert {name.split("torch.backends.")[1] for name in exact} == {
        f"{part}.fp32_precision"
        for part in ("cudnn.rnn", "cudnn.conv", "cuda.matmul", "mkldnn.rnn", "mkldnn.matmul")
    }
    assert {found[name] for name in exact} == {"ieee"}
    config, case = CONFIGS["projected"], cases.ordinary_case(CONFIGS["projected"])
    params = random_params(config)
    before = TorchLSTM(params, config).run(case, np.float32)
    settings, threads = torch_precision.in_force(), torch.get_num_threads()
    state = torch.random.get_rng_state()
    torch.set_float32_matmul_precision("medium")
    torch.set_num_threads(threads + 1)
    try:
        caller = torch_precision.in_force()
        assert caller["torch.backends.mkldnn.matmul.fp32_precision"] == "bf16"
        during = TorchLSTM(params, config).run(case, np.float32, gradients=True)
        after = torch_precision.in_force()
        assert torch.get_num_threads() == threads + 1
        assert torch.equal(torch.random.get_rng_state(), state)
        assert [after[name] for name in exact] == [caller[name] for name in exact]
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision("highest")
        backends: Any = torch.backends
        backends.mkldnn.matmul.fp32_precision = "none"
        backends.cuda.matmul.fp32_precision = "none"
    assert [torch_precision.in_force()[name] for name in exact] == [settings[name] for name in exact]
    np.testing.assert_array_equal(before.outputs["outputs"], during.outputs["outputs"])


def operator(m: Any, x: torch.Tensor) -> torch.Tensor:
    """An LSTM as in an exported program: without the checks of ``nn.LSTM``."""
    state = [x.new_zeros(1, x.shape[1], 8)] * 2
    return torch.ops.aten.lstm.input(x, state, list(m.parameters()), True, 1, 0.0, False, False, False)[0]


@pytest.mark.parametrize(("size", "refused"), [(6, False), (1, True)])
def test_sizes_that_only_float32_takes_are_refused(size: int, refused: bool) -> None:
    case = Case.of_model("example", (np.ones((4, 2, size), np.float32),), {})
    assert bool(TorchModel(module_of(operator, lstm=torch.nn.LSTM(6, 8))).refusal(case)) == refused


def test_program_that_torch_cannot_run() -> None:
    module = torch.nn.Sequential()
    module.add_module("meta", torch.nn.Linear(2, 3))
    program = torch.export.export(module, (torch.ones(1, 2),))
    with pytest.raises(ValueError, match=r"torch cannot run this exported program: .* Pass the live module"):
        TorchModel(program)
