"""Rounding: the step residual, and the RMS errors of right models near a kink or in few elements."""

import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from torch import nn

from jaxlstm.check import verify_model
from jaxlstm.check.cases import inputs as cases
from jaxlstm.check.cases.case import Results
from jaxlstm.check.criteria.accuracy import with_rounding_as_unit
from jaxlstm.check.criteria.criterion import RmsRatio
from jaxlstm.check.criteria.step_residual import step_residual
from jaxlstm.check.reference.oracle_lstm import OracleLSTM
from jaxlstm.check.subjects.port import Port, own_port
from jaxlstm.layer.config import LSTMConfig
from testing.modules import arrays
from testing.verification import STRONG, random_params
from testing.wrong_ports import WrongPort

pytestmark = pytest.mark.usefixtures("optimized")

WIDE = LSTMConfig(32, 48, num_layers=2, bidirectional=True)


def ratio(port, params, config, dtype=np.float32):
    found = step_residual(
        functools.partial(Port.of(port, params, config).run, dtype=dtype),
        OracleLSTM(params, config),
        cases.standard_cases(config)[:3],
        dtype,
    )
    assert found is not None
    return found


@pytest.mark.quick("config0-1.0", "config1-60.0")
@pytest.mark.parametrize("scale", [1.0, 10.0, 60.0])
@pytest.mark.parametrize("config", [STRONG, WIDE])
def test_our_steps_are_within_rounding(config, scale):
    assert ratio(own_port(config), random_params(config, scale=scale), config).value < 0.5


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_every_dtype(dtype):
    assert ratio(own_port(STRONG), random_params(STRONG), STRONG, dtype).value < 0.7


@pytest.mark.parametrize("config", [STRONG, WIDE])
def test_tf32_exceeds_rounding(config):
    right, rounded = (WrongPort(config, *bugs) for bugs in ((), ("tf32",)))
    assert ratio(right, random_params(config), config).value < 0.5
    assert ratio(rounded, random_params(config), config).value > 3


def test_wrong_bias_is_located():
    def port(x, state, lengths, *, params):
        changed = params | {"bias_ih_l1_reverse": params["bias_ih_l1_reverse"] * 1.001}
        return WrongPort(STRONG)(x, state, lengths, params=changed)

    found = ratio(port, random_params(STRONG), STRONG)
    assert found.value > 1.5
    assert "layer 1 reverse" in found.where


# NaN in h propagates to the layers above.
@pytest.mark.parametrize(("which", "where"), [(0, "c, layer 2 reverse"), (1, "c, layer 1 reverse, unit 1")])
def test_nan_exceeds_every_bound(which, where):
    def port(x, state, lengths, *, params):
        outputs, final = WrongPort(STRONG)(x, state, lengths, params=params)
        final[which][3, 2, 1] = np.nan
        return outputs, final

    found = ratio(port, random_params(STRONG), STRONG)
    assert found.value == np.inf
    assert found.where.startswith(where)


U = 2.0**-24
TRUTH = np.linspace(1, 2, 50)


def opinion(ours: float, own: float, *, kink: float = 0.0) -> float:
    """Return the ratio of an array whose rounding error is ``U``, and ``kink`` beyond a kink."""
    rng = np.random.default_rng(0)

    def perturbed(size: float) -> Results:
        error = size * rng.standard_normal(TRUTH.shape) + (kink if size > 1e-9 else 0.0)
        return Results({"y": TRUTH + error})

    ratio = RmsRatio("example, y", TRUTH.size, ours, own, own)
    return with_rounding_as_unit({"y": ratio}, Results({"y": TRUTH}), np.float32, perturbed)["y"].value


def test_luck_of_torch():
    # The unit is the rounding of the arguments, U, and of the results, U * 1.5.
    assert opinion(5 * U, U / 100) == pytest.approx(2, rel=0.2)
    assert opinion(U / 2, U / 100) == 1, "an error below rounding must not lower the mean of the others"


def test_kink_excuses_only_the_error_that_it_causes():
    assert opinion(0.1, U, kink=0.1) < 1.1
    assert opinion(10.0, U, kink=0.1) > 16
    assert opinion(1e-3, U, kink=0.1) == 1


def test_imprecision_is_not_excused():
    assert opinion(2.0**-11, U) > 1e3  # TF32
    assert opinion(20 * U, 3 * U) == pytest.approx(20 / 3, rel=0.2)
    assert opinion(2 * U, 1.5 * U) == pytest.approx(2 / 1.5), "below the limit, torch's error is the unit"


def _rounded(_, gradient):
    """Round a gradient to bfloat16 in float32, and not in float64."""
    rounded = gradient.astype(jnp.bfloat16) if gradient.dtype == jnp.float32 else gradient
    return (rounded.astype(gradient.dtype),)


imprecise_gradient = jax.custom_vjp(lambda weight: weight)
imprecise_gradient.defvjp(lambda weight: (weight, None), _rounded)


def _with_unit_at_zero(x: torch.Tensor) -> nn.Sequential:
    """Return a network in which a ReLU of the first example is at 0, to rounding."""
    torch.manual_seed(0)
    first = nn.Linear(5, 16)
    before = first.weight.double() @ x[0].double()
    with torch.no_grad():
        first.bias[:12] = -before[:12]
    return nn.Sequential(first, nn.ReLU(), nn.Linear(16, 8)).requires_grad_(False)


@pytest.mark.parametrize("wrong", [(), ("0.weight",), ("2.bias",)], ids=["right", "before", "after"])
def test_relu_at_zero(wrong):
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
    theirs = _with_unit_at_zero(x)

    def ours(params, x):
        p = {name: imprecise_gradient(a) if name in wrong else a for name, a in params.items()}
        hidden = jax.nn.relu(x @ p["0.weight"].T + p["0.bias"])
        return hidden @ p["2.weight"].T + p["2.bias"]

    report = verify_model(ours, theirs, (x,), params=arrays(theirs))
    failed = {item.name for item in report.items if item.ok is False}
    if wrong:
        assert "RMS error of gradients, worst array" in failed, str(report)
    else:
        assert not failed, str(report)
