"""Sources that do not fit: one error that lists everything, an unchanged model, and hints."""

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import jaxlstm
from testing.flax_layers import CASES
from testing.flax_models import assert_equal

pytestmark = pytest.mark.filterwarnings("ignore::jaxlstm.PortingWarning")


def rngs() -> dict[str, Any]:
    return {"rngs": nnx.Rngs(0)}


def linear(**kwargs: Any) -> nnx.Dict:
    return nnx.Dict({"fc": nnx.Linear(2, 3, **rngs(), **kwargs)})


def attention(features: int) -> nnx.MultiHeadAttention:
    return nnx.MultiHeadAttention(2, features, decode=False, **rngs())


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


# A model, a source that does not fit, and the cause in the message.
HINTS: list[tuple[Callable[[], nnx.Module], Callable[[], Any], str]] = [
    (linear, lambda: source(fc_weight=torch.ones(2, 3)), "transposed by (1, 0) it would fit"),
    (linear, lambda: source(fc_weight=torch.ones(6, 1)), "reshaped it would fit"),
    (linear, lambda: source(fc_bias=None), "has no bias: create the layer with use_bias=False"),
    (lambda: linear(use_bias=False), source, "the Flax layer has no bias: create it with use_bias=True"),
    (
        lambda: nnx.Dict({"norm": nnx.InstanceNorm(3, **rngs())}),
        lambda: {"other": torch.ones(1)},
        "torch's default is affine=False: create the layer with use_scale=False",
    ),
    (
        lambda: nnx.BatchNorm(3, **rngs()),
        lambda: torch.nn.BatchNorm1d(3, track_running_stats=False),
        "the torch layer has track_running_stats=False",
    ),
    (nnx.PReLU, lambda: torch.nn.PReLU(4), "Flax's PReLU has one slope for all channels"),
    (
        lambda: nnx.WeightNorm(linear()["fc"], **rngs()),
        lambda: torch.nn.Linear(2, 3),
        "the torch layer has no weight normalization",
    ),
    (
        lambda: nnx.WeightNorm(linear()["fc"], use_scale=False, **rngs()),
        lambda: torch.nn.Linear(2, 3),
        "WeightNorm is supported around one layer",
    ),
    (
        linear,
        lambda: torch.nn.ModuleDict({"fc": torch.nn.utils.spectral_norm(torch.nn.Linear(2, 3))}),
        "call torch.nn.utils.remove_spectral_norm",
    ),
]


@pytest.mark.parametrize(("model", "theirs", "hint"), HINTS)
def test_hints(model: Callable[[], nnx.Module], theirs: Callable[[], Any], hint: str) -> None:
    assert hint in str(rejected(model(), theirs()))


class Renamed(nnx.Module):
    def __init__(self) -> None:
        self.embed = nnx.Embed(7, 2, **rngs())
        self.blocks = nnx.List([nnx.Linear(2, 2, **rngs()) for _ in range(12)])
        self.out = nnx.Linear(2, 5, **rngs())


def torch_renamed() -> torch.nn.Module:
    layers = torch.nn.ModuleList([torch.nn.Linear(2, 2) for _ in range(12)])
    head = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Linear(2, 5))
    return torch.nn.ModuleDict({"tokens": torch.nn.Embedding(7, 2), "layers": layers, "head": head})


def torch_tied() -> torch.nn.Module:
    embed, out = torch.nn.Embedding(4, 3), torch.nn.Linear(3, 4, bias=False)
    out.weight = embed.weight
    return torch.nn.ModuleDict({"embed": embed, "out": out})


LSTM_TENSORS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
PROJECTIONS = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "out"}
# A model, a source with other names, the proposal of the error, and names with which the source fits.
PROPOSALS: dict[str, tuple[Callable[[], nnx.Module], Callable[[], torch.nn.Module], str, dict[str, str]]] = {
    "by shapes and order": (
        Renamed,
        torch_renamed,
        "by shapes and order these names fit; check them: names={}",
        {"tokens": "embed", "layers": "blocks", "head.1": "out"},
    ),
    "a list of the layers of one torch module": (
        lambda: nnx.Dict({"lstms": nnx.List([jaxlstm.nnx.LSTM(n, 4, **rngs()) for n in (3, 4)])}),
        lambda: torch.nn.ModuleDict({"rnn": torch.nn.LSTM(3, 4, 2)}),
        "by shapes and order these names fit; check them: names={}",
        {"rnn": "lstms.0", **{f"rnn.{name}_l1": f"lstms.1.{name}_l0" for name in LSTM_TENSORS}},
    ),
    "parameter without a layer": (
        lambda: nnx.Dict({"block": nnx.Dict({"slope": nnx.Param(jnp.zeros(3))})}),
        lambda: torch.nn.ModuleDict({"block": torch.nn.ModuleDict({"slope": torch.nn.PReLU(3)})}),
        "names={}",
        {"block.slope.weight": "block.slope"},
    ),
    "linear layers instead of attention": (
        lambda: nnx.Dict({"attn": attention(4)}),
        lambda: torch.nn.ModuleDict(
            {"attn": torch.nn.ModuleDict({name: torch.nn.Linear(4, 4) for name in PROJECTIONS})}
        ),
        "as in names={'attn.q_proj': 'attn.query'}",
        {f"attn.{theirs}": f"attn.{ours}" for theirs, ours in PROJECTIONS.items()},
    ),
    "tied only in torch": (
        lambda: nnx.Dict({"embed": nnx.Embed(4, 3, **rngs())}),
        torch_tied,
        "it is the same tensor as 'embed.weight' (tied weights): names={} accepts both",
        {"out": "embed", "embed": "embed"},
    ),
}


@pytest.mark.parametrize("case", PROPOSALS)
def test_proposed_names(case: str) -> None:
    make, make_theirs, message, names = PROPOSALS[case]
    model, theirs = make(), make_theirs()
    assert message.replace("{}", str(names)) in str(rejected(model, theirs))
    assert jaxlstm.load_state_dict(model, theirs, names=names).complete
    if "attention" not in case:  # A state dict has its packed projections.
        assert_equal(model, theirs, names)


# A model, other arguments than `source`, and the error, for each value of `strict`.
NO_LAYER = "names maps 'fc' to 'fd', but no layer of the model has this path; the paths are 'fc'"
ARGUMENTS: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
    (nnx.Linear, {}, TypeError, "got the class Linear; pass an instance"),
    (torch.nn.Linear(2, 3), {}, TypeError, "got Linear; for Linen use"),
    (linear(), {"source": 3}, TypeError, "source must be a path, a state dict or a torch.nn.Module, got"),
    (linear(), {"names": ["fc"]}, TypeError, "names must be a dict from torch prefixes"),
    (
        *(linear(), {"names": {"fd": "fc"}}, ValueError),
        "names has the torch prefix 'fd', but no tensor of the source starts with it",
    ),
    (linear(), {"names": {"fc": "fd"}}, ValueError, NO_LAYER),
    (linear(), {"names": {"fc.weight": "fc.kernel"}}, ValueError, "of tensors: write 'fc.weight'"),
    (
        *(linear(), {"source": {**source(), "module.fc.weight": torch.ones(3, 2)}}, ValueError),
        "'fc.weight' and 'module.fc.weight', which are the same tensor",
    ),
]


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(("model", "arguments", "error", "message"), ARGUMENTS)
def test_arguments(model: Any, arguments: Any, error: type[Exception], message: str, strict: bool) -> None:
    with pytest.raises(error, match=re.escape(message)):
        jaxlstm.load_state_dict(model, **{"source": source(), "strict": strict, **arguments})
    if message == NO_LAYER:
        with pytest.raises(error, match=re.escape(message)):
            jaxlstm.state_dict(model, names=arguments["names"])


def test_models_without_a_state_dict() -> None:
    with pytest.raises(ValueError, match=r"model must have values, but 'fc\.kernel' is abstract"):
        jaxlstm.state_dict(nnx.eval_shape(linear))
    batched = nnx.LinearGeneral(2, 3, batch_axis={0: 4}, **rngs())
    with pytest.raises(jaxlstm.StateDictError, match=r"no state dict in torch\n  the model \(LinearGeneral"):
        jaxlstm.state_dict(batched)


def test_names_that_leave_a_layer_without_tensors() -> None:
    """The tensor of one layer is given to another, which would leave both with the same numbers."""
    layers: Any = {name: nnx.Linear(2, 2, **rngs()) for name in "ab"}
    params: Any = {name: nnx.Param(jnp.zeros(1)) for name in "ab"}
    for parts, end, source in (
        (layers, ".weight", torch.nn.ModuleDict({name: torch.nn.Linear(2, 2) for name in "ab"})),
        (params, "", {name: np.ones(1, "f") for name in "ab"}),
    ):
        model = nnx.Dict(parts)
        message = f"names gives the tensor 'b{end}' to 'a{end}', so that this layer has none"
        assert message in str(rejected(model, source, names={"b": "a"}, strict=False))
        with pytest.raises(jaxlstm.StateDictError, match=re.escape(message)):
            jaxlstm.state_dict(model, names={"b": "a"})


def test_damaged_file(tmp_path: Path) -> None:
    """The tensors are read after all shapes have been checked, and before anything is written."""
    path = tmp_path / "model.pt"
    torch.save(source(fc_weight=torch.full((3, 2), 1.5)), path)
    path.write_bytes(path.read_bytes().replace(np.full(6, 1.5, "<f4").tobytes(), bytes(24)))
    model = linear()
    before = snapshot(model)
    with pytest.raises(jaxlstm.CheckpointError, match="crc-mismatch"):
        jaxlstm.load_state_dict(model, path)
    assert all((before[path] == value).all() for path, value in snapshot(model).items())


@pytest.mark.parametrize("strict", [True, False])
def test_gru_with_candidate_bias(strict: bool) -> None:
    message = str(rejected(nnx.GRUCell(3, 4, **rngs()), torch.nn.GRUCell(3, 4), strict=strict))
    assert "https://github.com/google/flax/issues/5594" in message
    assert "b_hn" in message


@pytest.mark.parametrize("name", ["Linear", "Conv1d", "BatchNorm", "MultiHeadAttention", "jaxlstm LSTM"])
def test_stacked_layers(name: str) -> None:
    """No torch layer has a stack of kernels, which nnx.vmap over a constructor makes."""
    with jax.enable_x64(True):
        stack = nnx.split_rngs(splits=3)(nnx.vmap(CASES[name].flax))
        model = nnx.Dict({"blocks": stack(nnx.Rngs(0))})
    stacked = "its arrays are stacked along one more axis, as by vmap or scan; fill the layers one"
    assert stacked in str(rejected(model, {"blocks.0.weight": torch.ones(2, 2)}))
    with pytest.raises(jaxlstm.StateDictError, match=stacked):
        jaxlstm.state_dict(model)
