"""Faults of the derivative are named from the gradients."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm.check.cases import lstm as cases
from jaxlstm.check.diagnosis.gradients import explain_gradients
from jaxlstm.check.reference.oracle_lstm import OracleLSTM
from jaxlstm.layer.config import LSTMConfig
from testing.verification import random_params

CONFIG = LSTMConfig(3, 4, num_layers=2, bidirectional=True)
PARAMS = random_params(CONFIG, dtype=np.float64)
CASE = cases.ordinary_case(CONFIG)


def truth(case=CASE, params=PARAMS, config=CONFIG, cotangents=None):
    """Return the correct gradients, with other cotangents if they are given."""
    if cotangents is not None:
        case = replace(case, cotangents=dict(zip(case.cotangents, cotangents, strict=True)))
    return dict(OracleLSTM(params, config).run(case, gradients=True).gradients or {})


def explained(**changed):
    return explain_gradients({**truth(), **changed}, OracleLSTM(PARAMS, CONFIG), CASE)


def test_right_gradients_need_no_explanation():
    assert explained() == []
    single = {name: a.astype(np.float32) for name, a in truth().items()}
    assert explain_gradients(single, OracleLSTM(PARAMS, CONFIG), CASE) == []


def test_descriptions_of_single_leaves():
    true = truth()
    assert explained(bias_hh_l0=true["bias_hh_l0"] * 0) == [
        "the gradient of bias_hh_l0 is zero, as after stop_gradient"
    ]
    assert explained(h_0=true["h_0"] * 2) == ["the gradient of h_0 is 2 times the correct gradient"]
    assert explained(inputs=true["inputs"] + np.eye(12, 5)[..., None]) == ["the gradient of inputs is wrong"]
    assert explained(c_0=true["c_0"] * np.nan) == ["the gradient of c_0 is not finite"]
    assert explained(h_0=true["c_0"], c_0=true["h_0"]) == ["the gradients of h_0 and c_0 are swapped"]
    alike = explained(**{k: -v for k, v in true.items() if "weight" in k})
    assert len(alike) == 1
    assert "is -1 times" in alike[0]


@pytest.mark.parametrize("kept", [0, 1])
def test_inputs_gradient_overwritten_by_one_direction(kept):
    """A port that assigns where it should add, by finite differences of a one-layer LSTM."""
    config = LSTMConfig(2, 3, bidirectional=True)
    params = random_params(config, dtype=np.float64)
    case = cases.ordinary_case(config)
    half = slice(kept * 3, kept * 3 + 3)
    whole, d_h, d_c = (a.copy() for a in case.cotangents.values())
    d_out = np.zeros_like(whole)
    d_out[..., half] = whole[..., half]
    d_h[1 - kept], d_c[1 - kept] = 0, 0
    inputs = truth(case, params, config, (d_out, d_h, d_c))["inputs"]
    found = truth(case, params, config) | {"inputs": inputs}
    causes = explain_gradients(found, OracleLSTM(params, config), case)
    name = ("forward", "reverse")[kept]
    assert causes == [
        f"the gradients match an LSTM in which the gradient of a layer's inputs includes only the "
        f"{name} direction"
    ]


@pytest.mark.parametrize(
    ("kept", "cause"),
    [
        ((0, 1), "the cotangent of h_n is ignored"),
        ((1, 0), "the cotangent of c_n is ignored"),
        ((0, 0), "the cotangents of h_n and c_n are ignored"),
    ],
)
def test_missing_cotangents(kept, cause):
    """Weights may be float32: the computation is in float64."""
    d_out, d_h, d_c = CASE.cotangents.values()
    params = random_params(CONFIG)
    found = truth(params=params, cotangents=(d_out, d_h * kept[0], d_c * kept[1]))
    causes = explain_gradients(found, OracleLSTM(params, CONFIG), CASE)
    assert causes == [f"the gradients match an LSTM in which {cause}"]


def test_no_gradient_from_step_to_step():
    """JAX's derivative of a loop with stop_gradient on h."""
    config = LSTMConfig(3, 4)
    params = random_params(config, dtype=np.float64)
    case = cases.ordinary_case(config).without("seq_lengths")

    def run(params, x, h, c):
        outputs = []
        for x_t in x:
            z = x_t @ params["weight_ih_l0"].T + jax.lax.stop_gradient(h) @ params["weight_hh_l0"].T
            i, f, g, o = jnp.split(z + params["bias_ih_l0"] + params["bias_hh_l0"], 4, axis=-1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            outputs.append(h)
        return jnp.stack(outputs), h[None], c[None]

    with jax.enable_x64(True):
        assert case.initial_state is not None
        (h_0,), (c_0,) = case.initial_state
        _, pull_back = jax.vjp(run, params, case.inputs, h_0, c_0)
        d_params, d_x, d_h, d_c = pull_back(tuple(map(jnp.asarray, case.cotangents.values())))
    found = {name: np.asarray(a) for name, a in d_params.items()}
    found |= {"inputs": np.asarray(d_x), "h_0": np.asarray(d_h)[None], "c_0": np.asarray(d_c)[None]}
    assert explain_gradients(found, OracleLSTM(params, config), case) == [
        "the gradients match an LSTM in which no gradient passes through h from step to step"
    ]


def test_no_gradient_between_layers():
    config = LSTMConfig(3, 4, num_layers=2)
    params = random_params(config, dtype=np.float64)
    case = cases.ordinary_case(config)
    d_out, d_h, d_c = case.cotangents.values()
    whole = truth(case, params, config)
    first = np.array([1, 0])[:, None, None]
    lower = truth(case, params, config, (d_out * 0, d_h * first, d_c * first))
    cut = {k: lower[k] if k.endswith("_l0") or k == "inputs" else v for k, v in whole.items()}
    for name in ("h_0", "c_0"):
        cut[name] = np.stack([lower[name][0], whole[name][1]])
    assert explain_gradients(cut, OracleLSTM(params, config), case) == [
        "the gradients match an LSTM in which no gradient passes from layer 1 to layer 0"
    ]
