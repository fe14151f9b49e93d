"""Sources that do not fit: one error that lists everything, an unchanged model, and hints."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import jaxlstm

pytestmark = pytest.mark.filterwarnings("ignore::jaxlstm.PortingWarning")


def linear(rngs: nnx.Rngs | None = None, **kwargs: Any) -> nnx.Dict:
    return nnx.Dict({"fc": nnx.Linear(2, 3, rngs=rngs or nnx.Rngs(0), **kwargs)})


def source(**changes: Any) -> dict[str, Any]:
    tensors = {"fc.weight": torch.ones(3, 2), "fc.bias": torch.ones(3)}
    tensors |= {name.replace("_", "."): value for name, value in changes.items()}
    return {name: value for name, value in tensors.items() if value is not None}


def snapshot(model: nnx.Module) -> dict[Any, np.ndarray]:
    return {path: np.array(value) for path, value in nnx.to_flat_state(nnx.state(model))}


def rejected(model: nnx.Module, source: Any, **kwargs: Any) -> jaxlstm.StateDictError:
    """Return the error, and check that the model is unchanged."""
    before = snapshot(model)
    with pytest.raises(jaxlstm.StateDictError) as error:
        jaxlstm.load_state_dict(model, source, **kwargs)
    after = snapshot(model)
    assert before.keys() == after.keys()
    for path, value in before.items():
        np.testing.assert_array_equal(value, after[path])
    return error.value


def test_everything_in_one_error() -> None:
    error = rejected(linear(), source(fc_weight=torch.ones(3, 4), fc_bias=None, extra_w=torch.ones(5)))
    assert "  missing    fc.bias -> fc.bias (3,)" in str(error)
    assert "  unexpected extra.w (5,)" in str(error)
    assert "  misshapen  fc.weight -> fc.kernel has shape (3, 4), expected (3, 2)" in str(error)
    assert [len(part) for part in (error.missing, error.unexpected, error.misshapen)] == [1, 1, 1]
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"fc_weight": torch.ones(2, 3)}, "transposed by (1, 0) it would fit"),
        ({"fc_weight": torch.ones(6)}, "reshaped it would fit"),
        ({"fc_weight": torch.ones(3, 2, 1, 1)}, "reshaped it would fit"),
        ({"fc_bias": None}, "the torch layer has no bias: create the layer with use_bias=False"),
    ],
)
def test_hints(change: dict[str, Any], hint: str) -> None:
    assert hint in str(rejected(linear(), source(**change)))


def test_bias_without_a_place() -> None:
    assert "the Flax layer has no bias: create it with use_bias=True" in str(
        rejected(linear(use_bias=False), source())
    )


def test_norms_without_weights() -> None:
    model = nnx.Dict({"norm": nnx.InstanceNorm(3, rngs=nnx.Rngs(0))})
    error = rejected(model, {"other": torch.ones(1)})
    assert all("create the layer with use_scale=False" in one.hint for one in error.missing)
    theirs = torch.nn.ModuleDict({"norm": torch.nn.BatchNorm1d(3, track_running_stats=False)})
    error = rejected(nnx.Dict({"norm": nnx.BatchNorm(3, rngs=nnx.Rngs(0))}), theirs)
    assert all("track_running_stats=False" in one.hint for one in error.missing)


def test_linear_layers_in_place_of_attention() -> None:
    parts = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "out"}
    theirs = torch.nn.ModuleDict({"attn": torch.nn.ModuleDict({n: torch.nn.Linear(4, 4) for n in parts})})
    model = nnx.Dict({"attn": nnx.MultiHeadAttention(2, 4, decode=False, rngs=nnx.Rngs(0))})
    assert "as in names={'attn.q_proj': 'attn.query'}" in str(rejected(model, theirs))
    names = {f"attn.{torch}": f"attn.{flax}" for torch, flax in parts.items()}
    assert jaxlstm.load_state_dict(model, theirs, names=names).complete


def test_state_dict_of_an_abstract_model() -> None:
    with pytest.raises(ValueError, match=r"model must have values, but 'fc\.kernel' is abstract"):
        jaxlstm.state_dict(nnx.eval_shape(linear))


def test_parameter_without_a_layer() -> None:
    model = nnx.Dict({"block": nnx.Dict({"slope": nnx.Param(jnp.zeros(3))})})
    theirs = torch.nn.ModuleDict({"block": torch.nn.ModuleDict({"slope": torch.nn.PReLU(3)})})
    assert "names={'block.slope.weight': 'block.slope'}" in str(rejected(model, theirs))
    jaxlstm.load_state_dict(model, theirs, names={"block.slope.weight": "block.slope"})
    np.testing.assert_array_equal(model["block"]["slope"][...], np.full(3, 0.25, np.float32))


def test_proposed_names() -> None:
    class Model(nnx.Module):
        def __init__(self) -> None:
            rngs = nnx.Rngs(0)
            self.embed = nnx.Embed(7, 2, rngs=rngs)
            self.blocks = nnx.List([nnx.Linear(2, 2, rngs=rngs) for _ in range(12)])
            self.out = nnx.Linear(2, 5, rngs=rngs)

    theirs = torch.nn.Module()
    theirs.tokens = torch.nn.Embedding(7, 2)
    theirs.layers = torch.nn.ModuleList([torch.nn.Linear(2, 2) for _ in range(12)])
    theirs.head = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Linear(2, 5))
    error = rejected(Model(), theirs)
    expected = {"tokens": "embed", "layers": "blocks", "head.1": "out"}
    assert f"by shapes and order these names fit; check them: names={expected}" in str(error)
    assert jaxlstm.load_state_dict(Model(), theirs, names=expected).complete


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"fd": "fc"}, "names has the torch prefix 'fd', but no tensor of the source starts with it"),
        (
            {"fc": "fd"},
            "names maps 'fc' to 'fd', but no layer of the model has this path; the paths are 'fc'",
        ),
    ],
)
def test_names_that_match_nothing(names: dict[str, str], message: str) -> None:
    for strict in (True, False):
        with pytest.raises(ValueError, match=re.escape(message)):
            jaxlstm.load_state_dict(linear(), source(), names=names, strict=strict)


def test_names_that_match_nothing_in_a_model() -> None:
    with pytest.raises(ValueError, match="names maps 'fc' to 'fd', but no layer of the model has this path"):
        jaxlstm.state_dict(linear(), names={"fc": "fd"})


def test_names_that_leave_a_layer_without_tensors() -> None:
    """The tensor of one layer is given to another, which would leave both with the same numbers."""
    model = nnx.Dict({"a": nnx.Linear(2, 2, rngs=nnx.Rngs(0)), "b": nnx.Linear(2, 2, rngs=nnx.Rngs(0))})
    theirs = torch.nn.ModuleDict({"a": torch.nn.Linear(2, 2), "b": torch.nn.Linear(2, 2)})
    message = "names gives the tensor 'b.weight' to 'a.weight', so that this layer has none"
    assert message in str(rejected(model, theirs, names={"b": "a"}, strict=False))
    with pytest.raises(jaxlstm.StateDictError, match=re.escape(message)):
        jaxlstm.state_dict(model, names={"b": "a"})


def test_two_copies_of_a_model() -> None:
    tensors = source()
    tensors["module.fc.weight"] = torch.ones(3, 2)
    with pytest.raises(ValueError, match=r"'fc.weight' and 'module.fc.weight'.*the same tensor"):
        jaxlstm.load_state_dict(linear(), tensors)


def test_wrong_names() -> None:
    with pytest.raises(TypeError, match="names must be a dict from torch prefixes to Flax prefixes"):
        jaxlstm.load_state_dict(linear(), source(), names=[("fd", "fc")])  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [3, [("fc.weight", 1)], None])
def test_wrong_source(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"source must be a path, a state dict or a torch\.nn\.Module, got"):
        jaxlstm.load_state_dict(linear(), wrong)


def test_wrong_model() -> None:
    module = nn.Dense(3)
    for function in (jaxlstm.load_state_dict, jaxlstm.state_dict):
        arguments = (source(),) if function is jaxlstm.load_state_dict else ()
        with pytest.raises(TypeError, match=r"model must be a flax\.nnx\.Module, got Dense; for Linen use"):
            function(module, *arguments)  # type: ignore[arg-type]


def test_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save(source(), path)
    path.write_bytes(path.read_bytes()[:-30])
    model = linear()
    before = snapshot(model)
    with pytest.raises(jaxlstm.CheckpointError):
        jaxlstm.load_state_dict(model, path)
    with pytest.raises(FileNotFoundError):
        jaxlstm.load_state_dict(model, tmp_path / "absent.pt")
    assert all((before[path] == value).all() for path, value in snapshot(model).items())


def test_damaged_tensor(tmp_path: Path) -> None:
    """The tensors are read after all shapes have been checked."""
    path = tmp_path / "model.pt"
    torch.save(source(fc_weight=torch.full((3, 2), 1.5)), path)
    path.write_bytes(path.read_bytes().replace(np.full(6, 1.5, "<f4").tobytes(), bytes(24)))
    with pytest.raises(jaxlstm.CheckpointError, match="crc-mismatch"):
        jaxlstm.load_state_dict(linear(), path)


@pytest.mark.parametrize("strict", [True, False])
def test_gru_with_candidate_bias(strict: bool) -> None:
    model = nnx.GRUCell(3, 4, rngs=nnx.Rngs(0))
    message = str(rejected(model, torch.nn.GRUCell(3, 4), strict=strict))
    assert "https://github.com/google/flax/issues/5594" in message
    assert "b_hn" in message


def test_per_channel_prelu() -> None:
    error = rejected(nnx.PReLU(), torch.nn.PReLU(4))
    assert "Flax's PReLU has one slope for all channels" in str(error)


def test_grouped_conv_transpose() -> None:
    model = nnx.ConvTranspose(4, 4, (3,), transpose_kernel=True, rngs=nnx.Rngs(0))
    error = rejected(model, torch.nn.ConvTranspose1d(4, 4, 3, groups=2))
    assert "Flax's ConvTranspose has no groups" in str(error)


def test_attention_with_extra_biases() -> None:
    model = nnx.MultiHeadAttention(2, 6, decode=False, rngs=nnx.Rngs(0))
    error = rejected(model, torch.nn.MultiheadAttention(6, 2, add_bias_kv=True))
    assert [one.torch for one in error.unexpected] == ["bias_k", "bias_v"]


def test_layers_without_a_rule() -> None:
    model = nnx.WeightNorm(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), variable_filter=None, rngs=nnx.Rngs(0))
    assert "WeightNorm is supported around one layer" in str(rejected(model, torch.nn.Linear(2, 3)))
    model = nnx.WeightNorm(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(0))
    assert "the torch layer has no weight normalization" in str(rejected(model, torch.nn.Linear(2, 3)))
    batched = nnx.LinearGeneral(2, 3, batch_axis={0: 4}, rngs=nnx.Rngs(0))
    with pytest.raises(jaxlstm.StateDictError, match=r"no state dict in torch\n  the model \(LinearGeneral"):
        jaxlstm.state_dict(batched)


@pytest.mark.parametrize("names", [None, {"encoder": "fc"}])
def test_wrong_layout_of_a_registered_layer(names: dict[str, str] | None) -> None:
    class Odd(nnx.Module):
        def __init__(self) -> None:
            self.w = nnx.Param(jnp.zeros((2, 3)))

    jaxlstm.register_layer(Odd, {"weight": ("w", lambda x: x, np.transpose)})
    model = nnx.Dict({"fc": Odd()})
    prefix = "encoder" if names else "fc"
    message = str(rejected(model, {f"{prefix}.weight": np.ones((3, 2), "f")}, names=names))
    assert "the layout gives the shape (3, 2), expected (2, 3)" in message


@pytest.mark.parametrize(
    "make",
    [
        lambda rngs: nnx.Linear(2, 2, rngs=rngs),
        lambda rngs: nnx.Conv(2, 2, 3, rngs=rngs),
        lambda rngs: nnx.BatchNorm(2, rngs=rngs),
        lambda rngs: nnx.Embed(5, 2, rngs=rngs),
        lambda rngs: nnx.Conv(2, 2, 3, use_bias=False, rngs=rngs),
        lambda rngs: nnx.LinearGeneral((2, 3), 2, axis=(-2, -1), rngs=rngs),
        lambda rngs: nnx.RMSNorm(2, rngs=rngs),
        lambda rngs: nnx.InstanceNorm(2, rngs=rngs),
        lambda rngs: nnx.MultiHeadAttention(2, 4, decode=False, rngs=rngs),
        lambda rngs: nnx.LSTMCell(2, 3, rngs=rngs),
        lambda rngs: nnx.OptimizedLSTMCell(2, 3, rngs=rngs),
        lambda rngs: jaxlstm.nnx.LSTM(2, 3, rngs=rngs),
        lambda rngs: jaxlstm.nnx.LSTMCell(2, 3, rngs=rngs),
    ],
)
def test_stacked_layers(make: Any) -> None:
    """No torch layer has a stack of kernels, which nnx.vmap over a constructor makes."""
    model = nnx.Dict({"blocks": nnx.split_rngs(splits=3)(nnx.vmap(make))(nnx.Rngs(0))})
    message = str(rejected(model, {"blocks.0.weight": torch.ones(2, 2)}))
    stacked = "its arrays are stacked along one more axis, as by vmap or scan; fill the layers one"
    assert stacked in message
    with pytest.raises(jaxlstm.StateDictError, match=stacked):
        jaxlstm.state_dict(model)
