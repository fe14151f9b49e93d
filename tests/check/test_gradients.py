"""Faults of the derivative are named from the gradients alone."""

from __future__ import annotations

import numpy as np
import pytest

from jaxlstm.check import answer, inputs
from jaxlstm.check.gradients import explain_gradients
from jaxlstm.config import LSTMConfig
from tests.check.helpers import random_params

CONFIG = LSTMConfig(3, 4, num_layers=2, bidirectional=True)
PARAMS = random_params(CONFIG, dtype=np.float64)
CASE = inputs.ordinary_case(CONFIG)


def truth(case=CASE, params=PARAMS):
    found = answer.of_oracle(params, CONFIG, case, gradients=True).gradients
    assert found is not None
    return dict(found)


def explained(**changed):
    return explain_gradients({**truth(), **changed}, PARAMS, CONFIG, CASE)


def test_right_gradients_need_no_explanation():
    assert explained() == []
    single = {name: a.astype(np.float32) for name, a in truth().items()}
    assert explain_gradients(single, PARAMS, CONFIG, CASE) == []


def test_words_for_single_leaves():
    true = truth()
    assert explained(bias_hh_l0=true["bias_hh_l0"] * 0) == ["the gradient of bias_hh_l0 is zero"]
    assert explained(h_0=true["h_0"] * 2) == ["the gradient of h_0 is 2 times what it should be"]
    assert explained(inputs=true["inputs"] + np.eye(12, 5)[..., None]) == [
        "the gradient of inputs is wrong"
    ]
    assert explained(c_0=true["c_0"] * np.nan) == ["the gradient of c_0 is not finite"]
    assert explained(h_0=true["c_0"], c_0=true["h_0"]) == [
        "the gradients of h_0 and c_0 are swapped"
    ]
    alike = explained(**{k: -v for k, v in true.items() if "weight" in k})
    assert len(alike) == 1
    assert "is -1 times" in alike[0]


@pytest.mark.parametrize("kept", [0, 1])
def test_inputs_gradient_overwritten_by_a_direction(kept):
    """A port that assigns where it should add: worked out by finite differences of a one-layer LSTM."""
    config = LSTMConfig(2, 3, bidirectional=True)
    params = random_params(config, dtype=np.float64)
    case = inputs.ordinary_case(config)
    half = slice(kept * 3, kept * 3 + 3)
    d_out = np.zeros_like(case.cotangents[0])
    d_out[..., half] = case.cotangents[0][..., half]
    d_h, d_c = (a.copy() for a in case.cotangents[1:])
    d_h[1 - kept], d_c[1 - kept] = 0, 0
    from dataclasses import replace

    alone = answer.of_oracle(
        params, config, replace(case, cotangents=(d_out, d_h, d_c)), gradients=True
    ).gradients
    whole = answer.of_oracle(params, config, case, gradients=True).gradients
    assert alone is not None
    assert whole is not None
    told = explain_gradients({**whole, "inputs": alone["inputs"]}, params, config, case)
    name = ("forward", "reverse")[kept]
    assert told == [
        f"the gradients agree if the gradient of a layer's inputs is that of the {name} direction alone"
    ]


def test_cotangents_left_out():
    from dataclasses import replace

    d_out, d_h, d_c = CASE.cotangents
    told = explain_gradients(
        truth(replace(CASE, cotangents=(d_out, d_h, d_c * 0))), PARAMS, CONFIG, CASE
    )
    assert told == ["the gradients agree if the cotangent of c_n is left out"]


def test_no_gradient_between_layers():
    config = LSTMConfig(3, 4, num_layers=2)
    params = random_params(config, dtype=np.float64)
    case = inputs.ordinary_case(config)
    from dataclasses import replace

    d_out, d_h, d_c = (a.copy() for a in case.cotangents)
    whole = answer.of_oracle(params, config, case, gradients=True).gradients
    lower = answer.of_oracle(
        params,
        config,
        replace(case, cotangents=(d_out * 0, d_h * [[[1]], [[0]]], d_c * [[[1]], [[0]]])),
        gradients=True,
    ).gradients
    assert whole is not None
    assert lower is not None
    cut = {k: lower[k] if k.endswith("_l0") or k == "inputs" else v for k, v in whole.items()}
    for name in ("h_0", "c_0"):
        cut[name] = np.stack([lower[name][0], whole[name][1]])
    assert explain_gradients(cut, params, config, case) == [
        "the gradients agree if no gradient passes from layer 1 to layer 0"
    ]
