"""Configs with the defaults and shapes of torch, and the errors of configs, ``lstm`` and ``lstm_cell``."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxlstm import LSTMCellConfig, LSTMConfig, init_params, lstm, lstm_cell, param_shapes

SIZES = {"input_size": 3, "hidden_size": 5}


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"input_size": 0}, ValueError, "input_size must be greater than zero, got 0"),
        ({"input_size": 3.0}, TypeError, "input_size must be an int, got 3.0 of type float"),
        ({"bias": 1}, TypeError, "bias must be a bool, got 1 of type int; pass bias=True"),
        ({"batch_first": "yes"}, TypeError, "batch_first must be a bool, got 'yes'"),
        ({"dropout": 1.5}, ValueError, r"dropout must be in \[0, 1\].*got 1.5"),
        ({"dropout": True}, TypeError, "dropout must be a number from 0 to 1, got True"),
        ({"dropout": "0.5"}, TypeError, "dropout must be a number .*'0.5' of type str"),
        ({"proj_size": 5}, ValueError, "proj_size must be smaller than hidden_size, got proj_size=5"),
    ],
)
def test_bad_config(changed: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=f"^{message}"):
        LSTMConfig(**{**SIZES, **changed})
    if changed.keys() <= {*SIZES, "bias"}:
        with pytest.raises(error, match=f"^{message}"):
            LSTMCellConfig(**{**SIZES, **changed})


def test_defaults_and_order_against_torch() -> None:
    module = torch.nn.LSTM(3, 5)
    config = LSTMConfig(3, 5)
    for field in dataclasses.fields(config):
        assert getattr(config, field.name) == getattr(module, field.name), field.name
    assert LSTMConfig(3, 5, 2, False, True, 0.5, True, 4) == LSTMConfig(
        3, 5, num_layers=2, bias=False, batch_first=True, dropout=0.5, bidirectional=True, proj_size=4
    )


def test_numpy_integers_become_ints() -> None:
    config = LSTMConfig(np.int64(3), np.int32(5))  # type: ignore[arg-type]
    assert type(config.input_size) is int
    assert hash(config) == hash(LSTMConfig(3, 5))


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"bias": False},
        {"num_layers": 3, "bidirectional": True, "proj_size": 2},
        {"num_layers": 2, "proj_size": 4},
    ],
)
def test_param_shapes_against_torch(arguments: Any) -> None:
    module = torch.nn.LSTM(3, 5, **arguments)
    expected = {name: tuple(p.shape) for name, p in module.state_dict().items()}
    shapes = param_shapes(LSTMConfig(3, 5, **arguments))
    assert shapes == expected
    assert list(shapes) == list(expected)


def test_cell_config() -> None:
    cell = LSTMCellConfig(4, 5, False)
    assert dataclasses.replace(cell, bias=True) == LSTMCellConfig(4, 5) != LSTMConfig(4, 5)
    assert repr(cell) == "LSTMCellConfig(input_size=4, hidden_size=5, bias=False)"
    expected = {"num_layers": 1, "batch_first": False, "dropout": 0.0, "bidirectional": False, "proj_size": 0}
    assert {name: getattr(cell, name) for name in expected} == expected
    for name, value in expected.items():
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
            LSTMCellConfig(4, 5, **{name: value})  # type: ignore[arg-type]


CONFIG = LSTMConfig(3, 5, num_layers=2)
PARAMS = init_params(jax.random.key(0), CONFIG)
X = jnp.ones((7, 4, 3))
STATE = (jnp.zeros((2, 4, 5)), jnp.zeros((2, 4, 5)))


def call(params: Any = PARAMS, inputs: Any = X, state: Any = STATE, config: Any = CONFIG, **kwargs: Any):
    return lstm(params, inputs, state, config=config, **kwargs)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"inputs": jnp.ones((7, 4, 2))}, ValueError, "last axis of inputs must be input_size, 3; got shape"),
        ({"inputs": jnp.ones(3)}, ValueError, "inputs must have 3 axes"),
        ({"inputs": jnp.ones((0, 4, 3))}, ValueError, "inputs must have at least one time step"),
        ({"inputs": [[1.0, 2.0, 3.0]]}, TypeError, "inputs must be a JAX or NumPy array, got list"),
        ({"inputs": jnp.ones((7, 4, 3), jnp.int32)}, TypeError, "inputs must be float16, .*got int32"),
        (
            {"inputs": X.astype(jnp.bfloat16)},
            TypeError,
            "the same dtype, got inputs bfloat16 and weight_ih_l0",
        ),
        ({"state": (STATE[0],)}, TypeError, r"the state must be a pair \(h_0, c_0\).*tuple of length 1"),
        (
            {"state": (STATE[0][:, :3], STATE[1])},
            ValueError,
            r"h_0 must have shape \(2, 4, 5\), got \(2, 3, 5",
        ),
        (
            {"state": (STATE[0], STATE[1].astype(jnp.float16))},
            TypeError,
            "c_0 must have the dtype of the inp",
        ),
        ({"inputs": X[:, 0]}, ValueError, r"h_0 must have shape \(2, 5\), got \(2, 4, 5\)"),
        ({"seq_lengths": [7, 7, 7]}, ValueError, r"seq_lengths must have shape \(4,\)"),
        ({"seq_lengths": [7, 0, 7, -1]}, ValueError, "between 1 and .* 7; got 0 at index 1 and 1 more"),
        ({"backend": "cuda"}, ValueError, "backend must be one of .*got 'cuda'"),
        ({"precision": "exact"}, ValueError, "precision must be 'highest'"),
    ],
)
def test_bad_call(arguments: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        call(**arguments)


def test_all_bad_parameters_are_listed() -> None:
    params = {**PARAMS, "weight_xx_l0": jnp.ones(3), "bias_ih_l0": jnp.ones(19)}
    del params["weight_hh_l1"]
    with pytest.raises(ValueError, match="params do not fit") as caught:
        call(params)
    for problem in (
        "missing weight_hh_l1 (20, 5)",
        "unexpected weight_xx_l0",
        "bias_ih_l0 has shape (19,), expected (20,)",
    ):
        assert problem in str(caught.value)


def test_float64_requires_64_bit_mode() -> None:
    wide = np.ones((7, 4, 3))
    assert wide.dtype == np.float64
    with pytest.raises(TypeError, match=r"inputs is float64, but JAX's 64-bit mode is off.*jax_enable_x64"):
        call(inputs=wide)
    with pytest.raises(TypeError, match="weight_ih_l0 is float64"):
        call({name: np.asarray(p, np.float64) for name, p in PARAMS.items()})
    with pytest.raises(TypeError, match="h_0 is float64"):
        call(state=(np.zeros((2, 4, 5)), np.zeros((2, 4, 5))))
    with pytest.raises(TypeError, match="dtype is float64"):
        init_params(jax.random.key(0), CONFIG, dtype=np.float64)


def test_empty_batch() -> None:
    outputs, (h_n, c_n) = call(inputs=jnp.ones((7, 0, 3)), state=None)
    assert outputs.shape == (7, 0, 5)
    assert h_n.shape == c_n.shape == (2, 0, 5)


CELL = {name.removesuffix("_l0"): p for name, p in PARAMS.items() if name.endswith("_l0")}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((PARAMS, jnp.ones((4, 3))), "params must contain the matrix weight_ih, without a suffix"),
        ((CELL, jnp.ones((4, 2))), r"x must have shape \(batch, 3\) or \(3,\), got \(4, 2\)"),
        ((CELL, jnp.ones((4, 3)), (jnp.ones((4, 5)), jnp.ones((3, 5)))), r"c must have shape \(4, 5\)"),
        (({**CELL, "bias_hh": jnp.ones(4)}, jnp.ones((4, 3))), "bias_hh has shape"),
    ],
)
def test_bad_cell_arguments(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lstm_cell(*arguments)
    with pytest.raises(TypeError, match="the same dtype, got inputs float16 and weight_ih float32"):
        lstm_cell(CELL, jnp.ones((4, 3), jnp.float16))
