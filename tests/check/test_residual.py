"""The step residual: rounding stays well below 1, the smallest faults do not."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jaxlstm.check.cases import lstm as cases
from jaxlstm.check.criteria.step_residual import gamma, step_residual
from jaxlstm.check.reference.oracle_lstm import OracleLSTM
from jaxlstm.check.subjects.port import Port, own_port
from jaxlstm.layer.config import LSTMConfig
from testing.verification import STRONG, random_params
from testing.wrong_ports import WrongPort

WIDE = LSTMConfig(32, 48, num_layers=2, bidirectional=True)


def ratio(port, params, config, dtype=np.float32):
    found = step_residual(
        functools.partial(port.run, params, dtype=dtype),
        OracleLSTM(params, config),
        cases.standard_cases(config)[:3],
        dtype,
    )
    assert found is not None
    return found


@pytest.mark.parametrize("scale", [1.0, 10.0, 60.0])
@pytest.mark.parametrize("config", [STRONG, WIDE])
def test_our_steps_are_within_rounding(config, scale):
    assert ratio(own_port(config), random_params(config, scale=scale), config).value < 0.5


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_every_dtype(dtype):
    assert ratio(own_port(STRONG), random_params(STRONG), STRONG, dtype).value < 0.7


@pytest.mark.parametrize("config", [STRONG, WIDE])
def test_tf32_exceeds_rounding(config):
    right, rounded = (Port.of(WrongPort(config, *bugs)) for bugs in ((), ("tf32",)))
    assert ratio(right, random_params(config), config).value < 0.5
    assert ratio(rounded, random_params(config), config).value > 3


def test_wrong_bias_is_located():
    def port(x, state, lengths, *, params):
        changed = params | {"bias_ih_l1_reverse": params["bias_ih_l1_reverse"] * 1.001}
        return WrongPort(STRONG)(x, state, lengths, params=changed)

    found = ratio(Port.of(port), random_params(STRONG), STRONG)
    assert found.value > 1.5
    assert "layer 1 reverse" in found.where


def test_no_residual_without_states():
    port = Port.of(jax.jit(lambda x, state, lengths: (jnp.zeros((1, x.shape[1], 4)), (None, None))))
    params = random_params(STRONG)
    run = functools.partial(port.run, params, dtype=np.float32)
    oracle = OracleLSTM(params, STRONG)
    assert step_residual(run, oracle, cases.standard_cases(STRONG)[:1], np.float32) is None


def test_gamma():
    u = 2.0**-24
    assert gamma(9, u) == pytest.approx(9 * u)
    assert gamma(900, u) == pytest.approx(180 * u)
    # n u > 1
    assert gamma(4000, 2.0**-8) == pytest.approx(6 * 4000**0.5 * 2.0**-8)


# NaN in h propagates to the layers above.
@pytest.mark.parametrize(("which", "where"), [(0, "c, layer 2 reverse"), (1, "c, layer 1 reverse, unit 1")])
def test_nan_exceeds_every_bound(which, where):
    def port(x, state, lengths, *, params):
        outputs, final = WrongPort(STRONG)(x, state, lengths, params=params)
        final[which][3, 2, 1] = np.nan
        return outputs, final

    found = ratio(Port.of(port), random_params(STRONG), STRONG)
    assert found.value == np.inf
    assert found.where.startswith(where)
