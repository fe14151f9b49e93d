"""Every layer of a state dict: type, sizes, parameters, and the arguments that are not recorded."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, prune

from jaxlstm import read_checkpoint
from jaxlstm_converters.layer_kinds import KINDS, LayerKind
from jaxlstm_converters.layers import Layer, find_layers, types
from jaxlstm_converters.lstm._find_lstms import recorded_settings, survey
from jaxlstm_converters.optimizer.state import is_optimizer_state
from jaxlstm_converters.pt2 import layer_settings
from testing.command import jaxlstm_command
from testing.exported import save
from testing.modules import module_of

UNRECORDED = ("stride", "padding", "dilation", "groups")


def layers_of(state_dict: Mapping[str, Any]) -> dict[str, Layer]:
    layers = find_layers(survey(state_dict), recorded_settings(state_dict))
    return {layer.name: layer for layer in layers}


# An attribute, its module, the types that fit and some of the sizes. Tensors that do not tell the type leave
# it open, unless a word in the name decides.
LAYERS: list[tuple[str, nn.Module, str, dict[str, Any]]] = [
    ("layer", nn.Linear(3, 4), "Linear", {"in_features": 3, "out_features": 4, "bias": True}),
    ("layer", nn.Conv1d(3, 4, 5), "Conv1d", {"in_channels": 3, "kernel_size": [5], "bias": True}),
    ("layer", nn.Conv2d(3, 4, (5, 6)), "Conv2d", {"in_channels": 3, "kernel_size": [5, 6]}),
    (
        *("layer", nn.ConvTranspose2d(8, 4, 2, groups=2), "ConvTranspose2d"),
        {"in_channels": 8, "out_channels": 4},
    ),
    ("layer", nn.ConvTranspose1d(3, 4, 5), "ConvTranspose1d", {}),
    ("layer", nn.BatchNorm2d(7, affine=False), "BatchNorm", {"num_features": 7, "affine": False}),
    ("layer", nn.LayerNorm([3, 4]), "LayerNorm", {"normalized_shape": [3, 4], "bias": True}),
    ("layer", nn.LSTM(3, 5, proj_size=2), "LSTM", {"input_size": 3, "hidden_size": 5, "proj_size": 2}),
    ("layer", nn.LSTMCell(3, 5, bias=False), "LSTMCell", {"input_size": 3, "hidden_size": 5, "bias": False}),
    ("layer", nn.GRU(3, 5, 2, bidirectional=True), "GRU", {"num_layers": 2, "bidirectional": True}),
    ("layer", nn.RNN(3, 5), "RNN", {"input_size": 3, "hidden_size": 5, "num_layers": 1}),
    ("layer", nn.MultiheadAttention(8, 2), "MultiheadAttention", {"embed_dim": 8, "bias": True}),
    (
        *("layer", nn.MultiheadAttention(8, 2, kdim=5, vdim=6, bias=False, add_bias_kv=True)),
        *("MultiheadAttention", {"embed_dim": 8, "bias": False, "kdim": 5, "vdim": 6, "add_bias_kv": True}),
    ),
    ("layer", nn.Linear(3, 4, bias=False), "Linear Embedding", {}),
    ("layer", nn.Conv2d(4, 4, 3), "Conv2d ConvTranspose2d", {}),
    ("layer", nn.Conv1d(3, 4, 3, bias=False), "Conv1d ConvTranspose1d", {}),
    ("layer", nn.LayerNorm(4), "LayerNorm GroupNorm InstanceNorm", {}),
    ("layer", nn.RMSNorm(4), "RMSNorm LayerNorm PReLU", {}),
    ("word_embeddings", nn.Embedding(3, 4), "Embedding", {}),
    ("lm_head", nn.Linear(3, 4, bias=False), "Linear", {}),
    ("deconv2", nn.ConvTranspose2d(4, 4, 3), "ConvTranspose2d", {}),
    ("conv2", nn.Conv2d(4, 4, 3), "Conv2d", {}),
    ("ln_1", nn.LayerNorm(4), "LayerNorm", {}),
    ("groupnorm", nn.GroupNorm(2, 4), "GroupNorm", {}),
    ("rms_norm", nn.RMSNorm(4), "RMSNorm", {}),
]
NOT_RECORDED = {
    **dict.fromkeys(("Conv1d", "Conv2d"), UNRECORDED),
    **dict.fromkeys(("ConvTranspose1d", "ConvTranspose2d"), (*UNRECORDED, "output_padding")),
    "BatchNorm": ("eps", "momentum"),
    **dict.fromkeys(("LayerNorm", "RMSNorm"), ("eps",)),
    "GroupNorm": ("num_groups", "eps"),
    "Embedding": ("padding_idx",),
    "MultiheadAttention": ("num_heads", "dropout", "batch_first", "add_zero_attn"),
    "LSTM": ("batch_first",),
    "GRU": ("batch_first", "dropout"),  # of two layers
    "RNN": ("batch_first", "nonlinearity"),
}


@pytest.mark.parametrize(("name", "module", "types", "sizes"), LAYERS)
def test_one_layer(name: str, module: nn.Module, types: str, sizes: dict[str, Any]) -> None:
    (layer,) = layers_of(nn.ModuleDict({name: module}).state_dict()).values()
    assert layer.types == tuple(types.split())
    assert sizes.items() <= layer.sizes.items()
    assert layer.dtype == "torch.float32"
    assert layer.notes == ([] if name == "layer" else ["type from the name"])
    assert layer.parameters == sum(p.numel() for p in module.parameters())
    assert layer.buffers == sum(b.numel() for b in module.buffers())
    assert layer.not_recorded == NOT_RECORDED.get(layer.types[0], ())


def test_a_module_that_was_saved_whole_records_its_arguments(tmp_path: Path) -> None:
    torch.save(nn.LSTM(3, 4, batch_first=True), tmp_path / "module.pt")
    (lstm,) = layers_of(read_checkpoint(tmp_path / "module.pt")).values()
    assert lstm.sizes["batch_first"] is True
    assert lstm.not_recorded == ()


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("make", "note"),
    [
        (lambda: parametrizations.weight_norm(nn.Linear(3, 4)), "weight: weight normalization"),
        (lambda: nn.utils.weight_norm(nn.Linear(3, 4)), "weight: weight normalization"),
        (lambda: nn.utils.spectral_norm(nn.Linear(3, 4)), "weight: spectral normalization"),
        (lambda: prune.l1_unstructured(nn.Linear(3, 4), "weight", amount=0.5), "weight: pruning"),
        (
            lambda: parametrizations.orthogonal(nn.Linear(3, 4), use_trivialization=False),
            "weight: a parametrization",
        ),
    ],
)
def test_reparametrized_weights(make: Any, note: str) -> None:
    (layer,) = layers_of(nn.ModuleDict({"layer": make()}).state_dict()).values()
    assert layer.types == ("Linear",)
    assert layer.notes == [note]
    assert layer.sizes == {"in_features": 3, "out_features": 4, "bias": True}
    assert layer.parameters == 16 or "pruning" not in note  # without the mask


NAMES = [
    *("weight", "bias", "running_mean", "running_var", "num_batches_tracked", "out_proj.weight"),
    *("in_proj_weight", "q_proj_weight", "k_proj_weight", "bias_k", "out_proj.bias"),
    *("weight_g", "weight_v", "weight_orig", "weight_u"),
    *("parametrizations.weight.original0", "parametrizations.weight.original1"),
    *("weight_ih_l0", "weight_hh_l0", "weight_hr_l0", "bias_ih_l0", "weight_ih", "weight_hh"),
]
PATHS = [prefix + name for prefix in ("", "a.", "a.out_proj.") for name in NAMES]
SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 4, 8, 9, 12]), max_size=4).map(tuple)


@given(st.dictionaries(st.sampled_from(PATHS), SHAPES, min_size=1, max_size=8))
@settings(max_examples=200, deadline=None)
def test_any_names_and_shapes_are_listed(shapes: dict[str, tuple[int, ...]]) -> None:
    """Whatever the tensors are, each of their elements is in one layer."""
    layers = find_layers(survey({name: np.zeros(shape) for name, shape in shapes.items()}), {})
    assert sum(layer.parameters + layer.buffers for layer in layers) == sum(
        int(np.prod(shape)) for shape in shapes.values()
    )


def test_unusual_layers() -> None:
    """A GRU with a projection, which torch lacks, and GPT-2's linear layers, stored as (inputs, outputs)."""
    shapes = {"weight_ih_l0": (9, 2), "weight_hh_l0": (9, 3), "weight_hr_l0": (5, 3)}
    (layer,) = layers_of({f"x.{name}": np.zeros(shape) for name, shape in shapes.items()}).values()
    assert layer.types == ("GRU",)
    assert layer.sizes["hidden_size"] == 3
    (layer,) = layers_of({"c_attn.weight": np.zeros((8, 24)), "c_attn.bias": np.zeros(24)}).values()
    assert (layer.types, layer.sizes) == (("transformers.Conv1D",), {"nx": 8, "nf": 24})


def test_unknown_tensors_are_layers_of_their_own() -> None:
    model = nn.ModuleDict({"block": nn.Linear(2, 3)})
    model["block"].register_buffer("scale", torch.ones(2, 5))
    layers = layers_of({**model.state_dict(), "temperature": torch.ones(()), "a.bias": torch.ones(3)})
    assert {name: layer.types for name, layer in layers.items()} == {
        "block": ("Linear",),
        "block.scale": (),
        "temperature": (),
        "a.bias": (),
    }
    assert layers["block.scale"].shapes == {"": (2, 5)}


@pytest.mark.parametrize("legacy", [False, True])
def test_tied_weights_count_once(legacy: bool, tmp_path: Path) -> None:
    model = nn.ModuleDict({"embedding": nn.Embedding(5, 4), "decoder": nn.Linear(4, 5)})
    model["decoder"].weight = model["embedding"].weight
    torch.save(model.state_dict(), tmp_path / "m.pt", _use_new_zipfile_serialization=not legacy)
    layers = layers_of(read_checkpoint(tmp_path / "m.pt"))
    assert layers["decoder"].notes == ["weight tied to embedding"]
    assert sum(layer.parameters for layer in layers.values()) == 25
    both = torch.zeros(8, 3)  # Views of one storage are not tied.
    torch.save({"a.weight": both[:4], "b.weight": both[4:]}, tmp_path / "m.pt")
    layers = layers_of(read_checkpoint(tmp_path / "m.pt"))
    assert [layer.parameters for layer in layers.values()] == [12, 12]


def test_the_state_of_optimizers_is_left_out() -> None:
    model = nn.Linear(3, 4)
    for optimizer in (
        torch.optim.Adam(model.parameters()),
        torch.optim.SGD(model.parameters(), momentum=0.9),
    ):
        model(torch.ones(3)).sum().backward()
        optimizer.step()
        state = {
            f"{root}.{key}.{name}": tensor
            for root in ("optimizer_state_dict.state", "opt.state", "state")
            for key, fields in optimizer.state_dict()["state"].items()
            for name, tensor in fields.items()
        }
        assert all(map(is_optimizer_state, state))
        layers = layers_of({**{f"model.{k}": v for k, v in model.state_dict().items()}, **state})
        assert list(layers) == ["model"]
    assert not is_optimizer_state("state.0.weight")


@pytest.mark.parametrize(
    ("module", "recorded"),
    [
        (nn.LSTM(3, 5, 2), {"batch_first": True, "dropout": 0.5}),
        (nn.GRU(3, 5), {"batch_first": True}),
        (nn.RNN(3, 5), {"batch_first": True, "nonlinearity": "relu"}),
        (nn.LayerNorm(4), {"eps": 1e-3}),
    ],
)
def test_settings_that_a_file_records(module: nn.Module, recorded: dict[str, Any]) -> None:
    (layer,) = find_layers(survey(module.state_dict()), {"": recorded})
    assert layer.sizes.items() >= recorded.items()
    assert layer.not_recorded == ()


ROW = LayerKind("Bilinear", "weight=O,A,B bias?=O", "in1_features=A in2_features=B out_features=O")


def test_a_row_of_the_table_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shapes fit a convolution too. A program records the operator."""
    model = module_of(lambda self, x, y: self.both(x, y), both=nn.Bilinear(3, 4, 5))
    save(tmp_path / "a.pt2", model, torch.randn(2, 3), torch.randn(2, 4))
    assert "Bilinear" not in jaxlstm_command("inspect", tmp_path / "a.pt2", "--all").out
    for module in (types, layer_settings):
        monkeypatch.setattr(module, "KINDS", [*KINDS, ROW])
    listed = jaxlstm_command("inspect", tmp_path / "a.pt2", "--all").out
    assert "both   Bilinear  5, in1_features=3, in2_features=4 " in listed
