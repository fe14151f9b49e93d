"""Warnings about settings that a state dict does not record."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import jaxlstm


@pytest.fixture
def recorded() -> Iterator[list[warnings.WarningMessage]]:
    with warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter("always", jaxlstm.PortingWarning)
        yield messages


LAYERS: dict[str, Callable[[], tuple[nnx.Module, torch.nn.Module]]] = {
    "epsilon": lambda: (nnx.LayerNorm(3, rngs=nnx.Rngs(0), use_fast_variance=False), torch.nn.LayerNorm(3)),
    "use_fast_variance": lambda: (nnx.LayerNorm(3, rngs=nnx.Rngs(0), epsilon=1e-5), torch.nn.LayerNorm(3)),
    "momentum": lambda: (
        nnx.BatchNorm(3, rngs=nnx.Rngs(0), epsilon=1e-5, use_running_average=True, use_fast_variance=False),
        torch.nn.BatchNorm1d(3),
    ),
    "use_running_average": lambda: (
        nnx.BatchNorm(3, rngs=nnx.Rngs(0), epsilon=1e-5, momentum=0.9, use_fast_variance=False),
        torch.nn.BatchNorm1d(3),
    ),
    "batch_first": lambda: (jaxlstm.nnx.LSTM(3, 4, rngs=nnx.Rngs(0)), torch.nn.LSTM(3, 4, batch_first=True)),
}


@pytest.mark.parametrize("from_module", [True, False])
@pytest.mark.parametrize("setting", LAYERS)
def test_settings(setting: str, from_module: bool, recorded: list[warnings.WarningMessage]) -> None:
    model, theirs = LAYERS[setting]()
    result = jaxlstm.load_state_dict(model, theirs if from_module else theirs.state_dict())
    assert [str(message.message) for message in recorded] == list(result.warnings)
    (text,) = result.warnings
    assert text.startswith(f"the model: {setting}")
    assert Path(recorded[0].filename) == Path(__file__)


def test_time_major(recorded: list[warnings.WarningMessage]) -> None:
    model = nnx.RNN(nnx.OptimizedLSTMCell(3, 4, rngs=nnx.Rngs(0)), time_major=True)
    assert jaxlstm.load_state_dict(model, torch.nn.LSTM(3, 4)).warnings == ()
    jaxlstm.load_state_dict(model, torch.nn.LSTM(3, 4, batch_first=True))
    (message,) = recorded
    assert "time_major=True, but the torch layer has batch_first=True" in str(message.message)


def test_settings_that_flax_lacks(recorded: list[warnings.WarningMessage]) -> None:
    attention = nnx.MultiHeadAttention(2, 4, decode=False, rngs=nnx.Rngs(0))
    embed = nnx.Embed(5, 4, rngs=nnx.Rngs(0))
    jaxlstm.load_state_dict(attention, torch.nn.MultiheadAttention(4, 2))
    jaxlstm.load_state_dict(embed, torch.nn.Embedding(5, 4))
    assert recorded == []
    jaxlstm.load_state_dict(attention, torch.nn.MultiheadAttention(4, 2, add_zero_attn=True))
    jaxlstm.load_state_dict(embed, torch.nn.Embedding(5, 4, max_norm=0.5))
    assert [str(message.message) for message in recorded] == [
        "the model: the torch layer has add_zero_attn=True, which Flax does not have",
        "the model: the torch layer has max_norm=0.5, which Flax does not have",
    ]


def test_numbers_of_heads_and_groups(recorded: list[warnings.WarningMessage]) -> None:
    options: dict[str, Any] = {"rngs": nnx.Rngs(0)}
    model = nnx.List(
        [
            nnx.MultiHeadAttention(2, 8, decode=False, **options),
            nnx.GroupNorm(8, 2, epsilon=1e-5, use_fast_variance=False, **options),
        ]
    )
    theirs = torch.nn.ModuleList([torch.nn.MultiheadAttention(8, 2), torch.nn.GroupNorm(2, 8)])
    assert jaxlstm.load_state_dict(model, theirs).warnings == ()
    theirs = torch.nn.ModuleList([torch.nn.MultiheadAttention(8, 4), torch.nn.GroupNorm(4, 8)])
    assert jaxlstm.load_state_dict(model, theirs).warnings == (
        "0: num_heads=2, but the torch layer has num_heads=4",
        "1: num_groups=2, but the torch layer has num_groups=4",
    )
    assert len(recorded) == 2


def test_equal_settings(recorded: list[warnings.WarningMessage]) -> None:
    """A torch module whose settings are the model's gives no warning, even if they are not the defaults."""
    options: dict[str, Any] = {"rngs": nnx.Rngs(0), "use_fast_variance": False}
    model = nnx.List(
        [
            nnx.LayerNorm(3, epsilon=1e-3, **options),
            nnx.BatchNorm(3, epsilon=1e-4, momentum=0.7, use_running_average=True, **options),
            jaxlstm.nnx.LSTM(3, 4, rngs=nnx.Rngs(0)),
            nnx.RMSNorm(3, epsilon=float(np.finfo(np.float32).eps), **options),
        ]
    )
    theirs = torch.nn.ModuleList(
        [
            torch.nn.LayerNorm(3, eps=1e-3),
            torch.nn.BatchNorm1d(3, eps=1e-4, momentum=0.3),
            torch.nn.LSTM(3, 4),
            torch.nn.RMSNorm(3),
        ]
    )
    assert jaxlstm.load_state_dict(model, theirs).warnings == ()
    assert recorded == []


def test_settings_of_a_whole_module_in_a_file(
    tmp_path: Path, recorded: list[warnings.WarningMessage]
) -> None:
    torch.save(torch.nn.Sequential(torch.nn.LSTM(3, 4, batch_first=True)), tmp_path / "module.pt")
    model = nnx.Sequential(jaxlstm.nnx.LSTM(3, 4, rngs=nnx.Rngs(0)))
    jaxlstm.load_state_dict(model, tmp_path / "module.pt")
    (message,) = recorded
    assert "batch_first=False, but the torch layer has batch_first=True" in str(message.message)


CONVOLUTIONS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "equal": ({"padding": 1}, {"padding": 1}, ""),
    "same": ({}, {"padding": "same"}, ""),
    "same as numbers": ({}, {"padding": 1}, ""),
    "valid": ({"padding": "VALID"}, {}, ""),
    "pairs": ({"padding": [(2, 2)], "kernel_dilation": 2}, {"padding": 2, "dilation": 2}, ""),
    "circular": ({"padding": "CIRCULAR"}, {"padding": 1, "padding_mode": "circular"}, ""),
    "causal": ({"padding": "CAUSAL"}, {}, ""),
    "the defaults": ({}, {}, "padding='SAME' pads 1 and 1, but the torch layer 0 and 0: pass"),
    "stride": (
        {"padding": 1},
        {"padding": 1, "stride": 2},
        "strides=(1,), but the torch layer has stride=(2,)",
    ),
    "dilation": (
        {"padding": "VALID"},
        {"dilation": 2},
        "kernel_dilation=(1,), but the torch layer has dilation=(2,)",
    ),
    "same with a stride": (
        {"strides": 2},
        {"padding": 1, "stride": 2},
        "padding='SAME' with strides above 1 depends on the size of the input, and the torch layer pads 1 "
        "and 1: pass padding=((1, 1),)",
    ),
    "mode": (
        {"padding": 1},
        {"padding": 1, "padding_mode": "reflect"},
        "padding=1 pads with zeros, but the torch layer has padding_mode='reflect'",
    ),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolutions(case: str, recorded: list[warnings.WarningMessage]) -> None:
    """The warnings are right: without one, the layers give equal results."""
    ours, theirs, warning = CONVOLUTIONS[case]
    conv, layer = nnx.Conv(3, 4, 3, rngs=nnx.Rngs(0), **ours), torch.nn.Conv1d(3, 4, 3, **theirs)
    result = jaxlstm.load_state_dict(conv, layer)
    assert len(result.warnings) == bool(warning)
    assert all(text.startswith(f"the model: {warning}") for text in result.warnings)
    assert jaxlstm.load_state_dict(conv, layer.state_dict()).warnings == ()
    x = torch.randn(2, 3, 12)
    padded = torch.nn.functional.pad(x, (2, 0)) if case == "causal" else x
    expected = layer(padded).detach().numpy().swapaxes(1, 2)
    actual = np.asarray(conv(jnp.asarray(x.numpy().swapaxes(1, 2))))
    assert bool(warning) != (actual.shape == expected.shape and np.allclose(actual, expected, atol=1e-5))


def test_transposed_convolution(recorded: list[warnings.WarningMessage]) -> None:
    conv, theirs = nnx.Conv(4, 4, 3, rngs=nnx.Rngs(0)), torch.nn.ConvTranspose1d(4, 4, 3)
    (text,) = jaxlstm.load_state_dict(conv, theirs).warnings
    assert text == "the model: the layer is a convolution, but the torch layer is a transposed convolution"
    transposed = nnx.ConvTranspose(4, 4, 3, padding="VALID", rngs=nnx.Rngs(0))
    assert jaxlstm.load_state_dict(transposed, theirs).warnings == ()
