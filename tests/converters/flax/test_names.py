"""Names of layers, wrappers and parts of checkpoints, and settings that no state dict records."""

import re
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
from jaxlstm_converters.flax.names import Names
from testing.flax_models import NAMES, assert_equal, flax_model, torch_model

pytestmark = pytest.mark.filterwarnings("ignore::jaxlstm.PortingWarning")


@pytest.mark.parametrize(
    "names",
    [
        {"cnn[0].": "conv0.", "cnn[1]": "bn0", "blocks": "layers"},
        {**NAMES, "blocks.0": "layers[0]", "blocks.1": "layers[1]", "heads.tag": "heads['tag']"},
        {"cnn.0": "conv0", "cnn.1": "bn0", "blocks": "layers", "mlp": "mlp.layers"},
        {**NAMES, "cnn.0.weight": "conv0.weight", "weight": "weight"},
    ],
)
def test_spellings_of_names(names: dict[str, str]) -> None:
    model, theirs = flax_model(), torch_model()
    jaxlstm.load_state_dict(model, theirs, names=names)
    assert_equal(model, theirs, names)


def test_swapped_names() -> None:
    model = nnx.Dict({"a": nnx.Param(jnp.zeros(1)), "b": nnx.Param(jnp.zeros(1))})
    source = {"a": np.ones(1, "f"), "b": np.full(1, 2, "f")}
    jaxlstm.load_state_dict(model, source, names={"a": "b", "b": "a"})
    assert model["a"][...] == 2
    assert jaxlstm.state_dict(model, names={"a": "b", "b": "a"}) == source


def _nested(state_dict: dict[str, Any]) -> dict[str, Any]:
    optimizer = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}
    return {"epoch": 3, "model_state_dict": state_dict, "optimizer_state_dict": optimizer}


WRAPPERS = {
    "data parallel": lambda model: torch.nn.DataParallel(model).state_dict(),
    # torch.compile is slow to import.
    "compiled": lambda model: {f"_orig_mod.{k}": v for k, v in model.state_dict().items()},
    "nested": lambda model: _nested(model.state_dict()),
    "nested, data parallel": lambda model: _nested(torch.nn.DataParallel(model).state_dict()),
    "Lightning": lambda model: {"state_dict": {f"model.{k}": v for k, v in model.state_dict().items()}},
}


@pytest.mark.parametrize("in_file", [False, True])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers(wrapper: str, in_file: bool, tmp_path: Path) -> None:
    model, theirs = flax_model(), torch_model()
    source = WRAPPERS[wrapper](theirs)
    if in_file:
        torch.save(source, tmp_path / "model.pt")
        source = tmp_path / "model.pt"
    result = jaxlstm.load_state_dict(model, source, names=NAMES)
    assert_equal(model, theirs)
    ignored = [note for note in result.notes if "ignored" in note]
    assert len(ignored) == ("nested" in wrapper)
    assert all("optimizer_state_dict" in note for note in ignored)


@pytest.mark.parametrize("other", ["net", "net.module"])
def test_two_models_in_one_checkpoint(other: str) -> None:
    model = nnx.Linear(2, 2, use_bias=False, rngs=nnx.Rngs(0))
    both = {"model.weight": np.ones((2, 2), "f"), f"{other}.weight": np.zeros((2, 2), "f")}
    with pytest.raises(ValueError, match="below 'net' and below 'model'"):
        jaxlstm.load_state_dict(model, both)
    jaxlstm.load_state_dict(model, both, names={"model": ""})
    assert (model.kernel[...] == 1).all()


@pytest.mark.parametrize("key", ["model", "net", "state_dict.model"])
@pytest.mark.parametrize("in_file", [False, True])
def test_another_part_beside_a_usual_attribute(key: str, in_file: bool, tmp_path: Path) -> None:
    """A torch module with the parts "model" and "head", of which the Flax model has only the first."""
    theirs = torch.nn.Linear(2, 2)
    outer = f"{key}.".removesuffix("model.").removesuffix("net.")
    source: Any = {f"{key}.{name}": array for name, array in theirs.state_dict().items()}
    source |= {f"{outer}head.weight": torch.ones(4, 2), "optimizer.state.0.exp_avg": torch.ones(2, 2)}
    if in_file:
        torch.save(source, tmp_path / "model.pt")
        source = tmp_path / "model.pt"
    model = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    with pytest.raises(jaxlstm.StateDictError, match=re.escape(f"names={{{key!r}: ''}}")) as caught:
        jaxlstm.load_state_dict(model, source)
    assert [one.torch for one in caught.value.unexpected] == [f"{outer}head.weight"]
    result = jaxlstm.load_state_dict(model, source, strict=False)
    assert [one.torch for one in result.unexpected] == [f"{outer}head.weight"]
    model = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    assert jaxlstm.load_state_dict(model, source, names={key: ""}).complete
    assert_equal(model, theirs, {})


@pytest.mark.parametrize(
    "other",
    ["optimizer", "lr_scheduler", "scaler", "rng_state", "ema", "model_ema", "criterion", "best_loss"],
)
def test_training_state_beside_the_model(other: str) -> None:
    model = nnx.Linear(2, 2, use_bias=False, rngs=nnx.Rngs(0))
    source = {"model": {"weight": np.ones((2, 2), "f")}, other: {"x": np.ones(1, "f")}}
    (note,) = jaxlstm.load_state_dict(model, source).notes
    assert note == f"1 tensors outside 'model' are ignored: {other}"


def test_a_part_wrapped_alone() -> None:
    """torch.compile and DataParallel of a submodule add a component in the middle of the names."""
    model, theirs = flax_model(), torch_model()
    parts: Any = theirs
    plain = torch_model()
    plain.load_state_dict(theirs.state_dict())
    parts.cnn = torch.nn.DataParallel(parts.cnn)
    source = {k.replace("mlp.0", "mlp.0._orig_mod"): v for k, v in parts.state_dict().items()}
    result = jaxlstm.load_state_dict(model, source, names=NAMES)
    assert ("cnn.module.0.weight", "conv0.kernel") in result.loaded
    assert_equal(model, plain)


def test_part_of_a_checkpoint() -> None:
    theirs = torch.nn.ModuleDict({"encoder": torch_model(), "decoder": torch.nn.Linear(2, 2)})
    names = {"encoder": "", **{f"encoder.{torch}": flax for torch, flax in NAMES.items()}}
    model = flax_model()
    with pytest.raises(
        jaxlstm.StateDictError, match=r"below 'encoder' in the source: pass names=\{'encoder': ''\}"
    ):
        jaxlstm.load_state_dict(model, theirs, names=None)
    result = jaxlstm.load_state_dict(model, theirs, names=names)
    assert result.notes == ("2 tensors outside 'encoder' are ignored: decoder",)
    assert_equal(model, theirs["encoder"])  # pyright: ignore[reportArgumentType]


def test_the_longest_prefix_decides() -> None:
    names = Names({"a": "x", "a.b": "y"})
    assert names.to_torch("x.weight") == ["a.weight"]
    # a.b.weight belongs to y, and a.weight to x.
    assert names.to_torch("x.b.weight") == names.to_torch("a.weight") == []


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
    (
        make(jaxlstm.nnx.RNN, 3, 4),
        nn.RNN(3, 4, nonlinearity="relu"),
        "nonlinearity='tanh', but the torch layer has nonlinearity='relu'",
        UNRECORDED,
    ),
    (rnn(), nn.LSTM(3, 4), "", ""),
    (rnn(), nn.LSTM(3, 4, batch_first=True), "time_major=True, but the torch layer has batch_first=True", ""),
    (attention(), nn.MultiheadAttention(8, 2), "", ""),
    (attention(), nn.MultiheadAttention(8, 4), "num_heads=2, but the torch layer has num_heads=4", ""),
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


def test_settings_in_a_file(tmp_path: Path, recorded: list[warnings.WarningMessage]) -> None:
    theirs = nn.LSTM(3, 4, batch_first=True)
    torch.save(nn.Sequential(theirs), tmp_path / "module.pt")
    jaxlstm.load_state_dict(nnx.Sequential(make(LSTM, 3, 4)), tmp_path / "module.pt")
    jaxlstm.save(tmp_path / "lstm.safetensors", *jaxlstm.from_torch(theirs))
    jaxlstm.load_state_dict(make(LSTM, 3, 4), tmp_path / "lstm.safetensors")
    line = "batch_first=False, but the torch layer has batch_first=True"
    assert [str(message.message) for message in recorded] == [f"layers.0: {line}", f"the model: {line}"]


CONVOLUTIONS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "equal": ({"padding": 1}, {"padding": 1}, ""),
    "same": ({}, {"padding": "same"}, ""),
    "circular": ({"padding": "CIRCULAR"}, {"padding": 1, "padding_mode": "circular"}, ""),
    "causal": ({"padding": "CAUSAL"}, {}, ""),
    "valid": ({"padding": "VALID"}, {}, ""),
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
