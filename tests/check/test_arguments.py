"""Arguments of a check that are valid; test_verify.py has the invalid ones."""

from __future__ import annotations

import numpy as np
import pytest

from jaxlstm.check.arguments import (
    require_dtype,
    require_params,
    require_precision,
    require_references,
)
from jaxlstm.config import LSTMConfig
from jaxlstm.params import init_bound, param_shapes
from tests.support.verification import needs_torch, random_params

CONFIG = LSTMConfig(3, 4, num_layers=2)


def takes_params(x, state, lengths, *, params):
    raise NotImplementedError


@pytest.mark.parametrize("port", [None, takes_params])
def test_default_params_are_those_of_a_new_lstm(port):
    found = require_params(port, None, CONFIG, 5)
    assert {name: a.shape for name, a in found.items()} == param_shapes(CONFIG)
    assert {a.dtype for a in found.values()} == {np.dtype(np.float32)}
    numbers = np.concatenate([a.ravel() for a in found.values()])
    assert np.abs(numbers).max() <= init_bound(CONFIG)
    assert np.ptp(numbers) > 1.9 * init_bound(CONFIG)
    again, other = (require_params(port, None, CONFIG, seed) for seed in (5, 6))
    assert all(np.array_equal(a, again[name]) for name, a in found.items())
    assert not np.array_equal(found["bias_ih_l0"], other["bias_ih_l0"])


def test_params_are_sorted_in_torchs_order():
    params = random_params(CONFIG)
    found = require_params(None, dict(reversed(params.items())), CONFIG, 0)
    assert list(found) == list(param_shapes(CONFIG))
    assert all(np.array_equal(a, params[name]) for name, a in found.items())


def test_known_names():
    assert require_dtype("bfloat16").name == "bfloat16"
    assert require_precision("tensorfloat32") == "tensorfloat32"
    assert require_precision(None) is None


@needs_torch
def test_references_have_a_fixed_order():
    assert require_references(("oracle", "torch")) == ("torch", "oracle")
    assert require_references("oracle") == ("oracle",)
