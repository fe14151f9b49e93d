"""Configs: validation, defaults, equality, and parameter shapes."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from jaxlstm import LSTMCellConfig, LSTMConfig, param_shapes

SIZES = {"input_size": 3, "hidden_size": 5}


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"input_size": 0}, ValueError, "input_size must be greater than zero, got 0"),
        ({"hidden_size": -1}, ValueError, "hidden_size must be greater than zero, got -1"),
        ({"num_layers": 0}, ValueError, "num_layers must be greater than zero, got 0"),
        ({"input_size": 3.0}, TypeError, "input_size must be an int, got 3.0 of type float"),
        ({"hidden_size": "5"}, TypeError, "hidden_size must be an int, got '5' of type str"),
        ({"bias": 1}, TypeError, "bias must be a bool, got 1 of type int; pass bias=True"),
        ({"batch_first": "yes"}, TypeError, "batch_first must be a bool, got 'yes'"),
        ({"bidirectional": 2}, TypeError, "bidirectional must be a bool, got 2"),
        ({"dropout": 1.5}, ValueError, r"dropout must be in \[0, 1\].*got 1.5"),
        ({"dropout": float("nan")}, ValueError, r"dropout must be in \[0, 1\].*got nan"),
        ({"dropout": True}, TypeError, "dropout must be a number from 0 to 1, got True"),
        ({"dropout": "0.5"}, TypeError, "dropout must be a number .*'0.5' of type str"),
        ({"proj_size": -1}, ValueError, "proj_size must be positive, or zero"),
        ({"proj_size": 5}, ValueError, "proj_size must be smaller than hidden_size, got proj_size=5"),
        ({"proj_size": 1.5}, TypeError, "proj_size must be an int"),
    ],
)
def test_bad_arguments(changed: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=f"^{message}"):
        LSTMConfig(**{**SIZES, **changed})


def test_dropout_without_effect_warns() -> None:
    with pytest.warns(UserWarning, match=r"dropout=0.5 has no effect.*num_layers is 1") as caught:
        LSTMConfig(3, 5, dropout=0.5)
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="dropout"):
        torch.nn.LSTM(3, 5, dropout=0.5)


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


@pytest.mark.parametrize("bias", [True, False])
def test_cell_param_shapes_against_torch(bias: bool) -> None:
    expected = {n: tuple(p.shape) for n, p in torch.nn.LSTMCell(3, 5, bias).state_dict().items()}
    assert param_shapes(LSTMCellConfig(3, 5, bias=bias)) == expected


def test_cell_config() -> None:
    cell = LSTMCellConfig(4, 5, False)
    assert dataclasses.replace(cell, bias=True) == LSTMCellConfig(4, 5) != LSTMConfig(4, 5)
    assert repr(cell) == "LSTMCellConfig(input_size=4, hidden_size=5, bias=False)"
    expected = {"num_layers": 1, "batch_first": False, "dropout": 0.0, "bidirectional": False, "proj_size": 0}
    assert {name: getattr(cell, name) for name in expected} == expected
    for name, value in expected.items():
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
            LSTMCellConfig(4, 5, **{name: value})  # type: ignore[arg-type]
