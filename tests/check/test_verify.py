"""verify: our own layer holds, planted faults do not, and the report says what went untested."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm
from jaxlstm.check import torch_runner, verify
from jaxlstm.config import LSTMCellConfig, LSTMConfig
from tests.check.helpers import STRONG, random_params

CONFIG = LSTMConfig(3, 4, num_layers=2)
PARAMS = random_params(CONFIG)


def own(x, state, lengths, *, params):
    return jaxlstm.lstm(params, x, state, seq_lengths=lengths, config=CONFIG)


def status(report):
    return {item.name: item.status for item in report.items}


def test_our_own_layer_holds():
    told = []
    report = verify(config=STRONG, progress=lambda *step: told.append(step))
    assert report.ok, str(report)
    assert {item.status for item in report.items} == {"ok"}
    assert "float64 gradients against torch" in status(report)
    assert "RMS error of gradients" in status(report)
    assert report.environment["torch.backends.cudnn.rnn.fp32_precision"] == "ieee"
    assert report.settings["seed"] == 0
    assert [done for done, _, _ in told] == list(range(told[-1][1] + 1))
    assert json.loads(report.to_json())["ok"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_our_own_layer_holds_in_half_precision(dtype):
    report = verify(config=CONFIG, dtype=dtype, gradients=False)
    assert report.ok, str(report)


@pytest.mark.parametrize(
    "config", [LSTMCellConfig(2, 3), LSTMConfig(2, 3, bias=False, batch_first=True)]
)
def test_our_own_layer_in_float64(config):
    report = verify(config=config, dtype="float64", gradients=False)
    assert report.ok, str(report)
    assert "RMS error of results" not in status(report)


@pytest.mark.parametrize(("scale", "gradients"), [(10.0, True), (60.0, False)])
def test_large_weights_are_not_accused(scale, gradients):
    params = random_params(CONFIG, scale=scale)
    report = verify(None, params, CONFIG, gradients=gradients)
    assert report.ok, str(report)


def layer_gradient_missing(x, state, lengths, *, params):
    frozen = {k: jax.lax.stop_gradient(v) if "_l1" in k else v for k, v in params.items()}
    return own(x, state, lengths, params=frozen)


def state_gradient_missing(x, state, lengths, *, params):
    return own(x, jax.lax.stop_gradient(state), lengths, params=params)


def single_precision_inside(x, state, lengths, *, params):
    single = jax.tree.map(lambda a: a.astype(jnp.float32), (params, x, state))
    outputs, final = own(single[1], single[2], lengths, params=single[0])
    return outputs.astype(x.dtype), tuple(a.astype(x.dtype) for a in final)


def always_single(x, state, lengths, *, params):
    outputs, final = single_precision_inside(x, state, lengths, params=params)
    return outputs.astype(jnp.float32), final


def half_weights(x, state, lengths, *, params):
    params = jax.tree.map(lambda a: a.astype(jnp.bfloat16).astype(a.dtype), params)
    return own(x, state, lengths, params=params)


@pytest.mark.parametrize(
    ("port", "failing"),
    [
        (layer_gradient_missing, "float64 gradients against torch"),
        (state_gradient_missing, "float64 gradients against oracle"),
        (single_precision_inside, "float64 semantics against oracle"),
    ],
)
def test_planted_faults_of_gradients_and_dtypes_are_caught(port, failing):
    report = verify(jax.jit(port), PARAMS, CONFIG)
    assert not report.ok
    assert status(report)[failing] == "FAILED"
    assert status(report)["NaN mask"] == "ok"


def test_a_port_of_float32_alone_is_judged_in_float32():
    report = verify(jax.jit(always_single), PARAMS, CONFIG, gradients=False)
    assert report.ok, str(report)
    assert status(report)["float64 semantics"] == "untested"
    assert "answered float64 inputs in float32" in str(report)
    asked = verify(jax.jit(always_single), PARAMS, CONFIG, dtype="float64", gradients=False)
    assert status(asked)["shape and dtype"] == "FAILED"


def test_stale_state_is_caught():
    kept = []

    def port(x, state, lengths):
        if kept and kept[-1][0].shape == state[0].shape:
            state = kept[-1]
        outputs, final = own(x, state, lengths, params=PARAMS)
        kept.append(tuple(final))
        return outputs, final

    report = verify(port, PARAMS, CONFIG, gradients=False)
    assert status(report)["repeatable"] == "FAILED"


def test_what_a_port_does_not_take_goes_untested():
    def port(x):
        return own(x, None, None, params=PARAMS)

    report = verify(jax.jit(port), PARAMS, CONFIG)
    assert report.ok, str(report)
    untested = {item.name for item in report.items if item.ok is None}
    assert untested == {
        "ragged lengths",
        "initial state",
        "step residual",
        "gradients of parameters",
        # Its own float32 weights do not mix with float64 inputs, which lstm says.
        "float64 semantics",
    }


def test_a_port_in_numpy_has_no_gradients():
    def through_numpy(x, state, lengths, *, params):
        return own(np.asarray(x), state, lengths, params=params)

    report = verify(through_numpy, PARAMS, CONFIG)
    assert report.ok, str(report)
    assert status(report)["gradients"] == "untested"


def test_without_torch_the_oracle_judges_alone(monkeypatch):
    monkeypatch.setattr(torch_runner, "is_available", lambda: False)
    monkeypatch.setattr(torch_runner, "run", None)
    report = verify(jax.jit(own), PARAMS, CONFIG, gradients=False)
    assert report.ok, str(report)
    assert "torch is not installed" in " ".join(report.notes)
    assert "torch" not in report.environment
    assert "float64 semantics against torch" not in status(report)
    with pytest.raises(ValueError, match="torch is not installed"):
        verify(own, PARAMS, CONFIG, against="torch")


def test_tolerances_replace_the_criteria_and_are_told():
    port = jax.jit(half_weights)
    loose = verify(port, PARAMS, CONFIG, gradients=False, rtol=1e-1, atol=1e-1)
    assert loose.ok, str(loose)
    assert "tolerances were set by the caller" in " ".join(loose.notes)
    tight = verify(port, PARAMS, CONFIG, gradients=False, rtol=0.0, atol=1e-7)
    assert status(tight)["within the tolerance"] == "FAILED"
    with pytest.raises(ValueError, match="without atol"):
        verify(port, PARAMS, CONFIG, rtol=1.0)


def test_arguments_that_do_not_fit():
    with pytest.raises(TypeError, match="config must be"):
        verify()
    with pytest.raises(TypeError, match="params must be the weights"):
        verify(lambda x, s, n: None, None, CONFIG)
    with pytest.raises(ValueError, match="missing weight_hh_l0"):
        verify(own, {"weight_ih_l0": np.ones((16, 3))}, CONFIG)
    with pytest.raises(ValueError, match="against must name"):
        verify(own, PARAMS, CONFIG, against=("keras",))
    with pytest.raises(ValueError, match="dtype must be"):
        verify(own, PARAMS, CONFIG, dtype="int32")
