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
from torch import nn

import jaxlstm


@pytest.fixture
def recorded() -> Iterator[list[warnings.WarningMessage]]:
    with warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter("always", jaxlstm.PortingWarning)
        yield messages


def make(layer: Callable[..., Any], *args: Any, **kwargs: Any) -> nnx.Module:
    """Return a layer of Flax, a normalization with torch's way to compute the variance."""
    if "Norm" in layer.__name__:
        kwargs = {"use_fast_variance": False, "epsilon": 1e-5, **kwargs}
    return layer(*args, rngs=nnx.Rngs(0), **kwargs)


def batch_norm(**kwargs: Any) -> nnx.Module:
    return make(nnx.BatchNorm, 3, **{"use_running_average": True, "momentum": 0.9, **kwargs})


def attention() -> nnx.Module:
    return make(nnx.MultiHeadAttention, 2, 8, decode=False)


def rnn() -> nnx.Module:
    return nnx.RNN(nnx.OptimizedLSTMCell(3, 4, rngs=nnx.Rngs(0)), time_major=True)


LSTM = jaxlstm.nnx.LSTM
UNRECORDED = "batch_first=False, the default; a state dict does not record torch's, so check it"
# A layer in Flax and in torch, and the starts of the warnings for the torch module and for its state dict.
SETTINGS: list[tuple[Any, ...]] = [
    (make(nnx.LayerNorm, 3), nn.LayerNorm(3), "", ""),
    (
        make(nnx.LayerNorm, 3, epsilon=1e-6),
        nn.LayerNorm(3),
        "epsilon=1e-06, but the torch layer's eps is 1e-05",
        "epsilon=1e-06, but torch's default is 1e-05",
    ),
    (make(nnx.LayerNorm, 3, use_fast_variance=True), nn.LayerNorm(3), *["use_fast_variance=True loses"] * 2),
    (batch_norm(), nn.BatchNorm1d(3), "", ""),
    (batch_norm(), nn.BatchNorm1d(3, momentum=None), "the torch layer has momentum=None", ""),
    (batch_norm(momentum=0.99), nn.BatchNorm1d(3), *["momentum=0.99, but t"] * 2),
    (batch_norm(use_running_average=False), nn.BatchNorm1d(3), *["use_running_average=False, so the"] * 2),
    (make(LSTM, 3, 4), nn.LSTM(3, 4), "", UNRECORDED),
    (make(LSTM, 3, 4), nn.LSTM(3, 4, batch_first=True), "batch_first=False, but the torch layer", UNRECORDED),
    (rnn(), nn.LSTM(3, 4), "", ""),
    (rnn(), nn.LSTM(3, 4, batch_first=True), "time_major=True, but the torch layer has batch_first=True", ""),
    (attention(), nn.MultiheadAttention(8, 2), "", ""),
    (attention(), nn.MultiheadAttention(8, 4), "num_heads=2, but the torch layer has num_heads=4", ""),
    (make(nnx.GroupNorm, 8, 2), nn.GroupNorm(2, 8), "", ""),
    (make(nnx.Embed, 5, 4), nn.Embedding(5, 4), "", ""),
    (make(nnx.Embed, 5, 4), nn.Embedding(5, 4, max_norm=0.5), "the torch layer has max_norm=0.5, which", ""),
    (
        make(nnx.Conv, 4, 4, 3),
        nn.ConvTranspose1d(4, 4, 3),
        "the layer is a convolution, but the torch layer is a transposed convolution",
        "",
    ),
]


@pytest.mark.parametrize("from_module", [True, False])
@pytest.mark.parametrize(("model", "theirs", "of_module", "of_state_dict"), SETTINGS)
def test_settings(
    model: nnx.Module,
    theirs: nn.Module,
    of_module: str,
    of_state_dict: str,
    from_module: bool,
    recorded: list[warnings.WarningMessage],
) -> None:
    result = jaxlstm.load_state_dict(model, theirs if from_module else theirs.state_dict())
    assert [str(message.message) for message in recorded] == list(result.warnings)
    assert all(Path(message.filename) == Path(__file__) for message in recorded)
    expected = of_module if from_module else of_state_dict
    assert len(result.warnings) == bool(expected)
    assert all(text.startswith(f"the model: {expected}") for text in result.warnings)


def test_layers_with_one_warning_share_a_line(recorded: list[warnings.WarningMessage]) -> None:
    model = nnx.List([make(nnx.Embed, 2, 2), *(make(nnx.LayerNorm, 2, epsilon=1e-3) for _ in range(6))])
    theirs = nn.ModuleList([nn.Embedding(2, 2), *(nn.LayerNorm(2) for _ in range(6))])
    (line,) = jaxlstm.load_state_dict(model, theirs).warnings
    assert line.startswith("1, 2, 3, 4 and 2 more: epsilon=0.001")
    assert len(recorded) == 1


def test_settings_of_a_whole_module_in_a_file(
    tmp_path: Path, recorded: list[warnings.WarningMessage]
) -> None:
    torch.save(nn.Sequential(nn.LSTM(3, 4, batch_first=True)), tmp_path / "module.pt")
    jaxlstm.load_state_dict(nnx.Sequential(make(LSTM, 3, 4)), tmp_path / "module.pt")
    (message,) = recorded
    assert "batch_first=False, but the torch layer has batch_first=True" in str(message.message)


CONVOLUTIONS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "equal": ({"padding": 1}, {"padding": 1}, ""),
    "same": ({}, {"padding": "same"}, ""),
    "circular": ({"padding": "CIRCULAR"}, {"padding": 1, "padding_mode": "circular"}, ""),
    "causal": ({"padding": "CAUSAL"}, {}, ""),
    "the defaults": ({}, {}, "padding='SAME' pads 1 and 1, but the torch layer 0 and 0: pass"),
    "stride": (
        {"padding": 1},
        {"padding": 1, "stride": 2},
        "strides=(1,), but the torch layer has stride=(2,)",
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
    conv, layer = nnx.Conv(3, 4, 3, rngs=nnx.Rngs(0), **ours), nn.Conv1d(3, 4, 3, **theirs)
    result = jaxlstm.load_state_dict(conv, layer)
    assert len(result.warnings) == bool(warning)
    assert all(text.startswith(f"the model: {warning}") for text in result.warnings)
    assert jaxlstm.load_state_dict(conv, layer.state_dict()).warnings == ()
    x = torch.randn(2, 3, 12)
    padded = nn.functional.pad(x, (2, 0)) if case == "causal" else x
    expected = layer(padded).detach().numpy().swapaxes(1, 2)
    actual = np.asarray(conv(jnp.asarray(x.numpy().swapaxes(1, 2))))
    assert bool(warning) != (actual.shape == expected.shape and np.allclose(actual, expected, atol=1e-5))
