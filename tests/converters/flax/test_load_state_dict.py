"""Filling whole models: sources, tied weights, dtypes, and the result."""

import itertools
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from flax import nnx
from torch.nn.utils import prune

import jaxlstm
from testing.flax_models import NAMES, Torch, assert_equal, flax_model, torch_model

pytestmark = pytest.mark.filterwarnings("ignore::jaxlstm.PortingWarning")


@pytest.mark.parametrize("kind", ["module", "state dict", "arrays", "file", "safetensors", "checkpoint"])
def test_sources(kind: str, tmp_path: Path) -> None:
    theirs = torch_model()
    path = tmp_path / "model.pt"
    torch.save(theirs.state_dict(), path)
    if kind == "safetensors":
        safetensors = pytest.importorskip("safetensors.torch")
        safetensors.save_file(theirs.state_dict(), path)
    sources: dict[str, Any] = {
        "module": theirs,
        "state dict": theirs.state_dict(),
        "arrays": {name: tensor.numpy() for name, tensor in theirs.state_dict().items()},
        "checkpoint": jaxlstm.read_checkpoint(path),
    }
    model = flax_model()
    result = jaxlstm.load_state_dict(model, sources.get(kind, str(path)), names=NAMES)
    assert result.complete
    assert ("cnn.0.weight", "conv0.kernel") in result.loaded
    assert_equal(model, theirs)
    Torch().load_state_dict(jaxlstm.state_dict(model, names=NAMES))


class Tied(nnx.Module):
    """An encoder and a decoder that share an embedding, as one module or one parameter."""

    def __init__(self, share: str) -> None:
        self.encoder = nnx.Embed(4, 3, rngs=nnx.Rngs(0))
        if share == "module":
            self.decoder = self.encoder
        else:
            self.decoder = nnx.Embed(4, 3, rngs=nnx.Rngs(0))
            self.decoder.embedding = self.encoder.embedding


@pytest.mark.parametrize("share", ["module", "parameter"])
@pytest.mark.parametrize("present", [("encoder",), ("decoder",), ("encoder", "decoder")])
def test_tied_weights(share: str, present: tuple[str, ...]) -> None:
    model = Tied(share)
    weight = torch.randn(4, 3)
    result = jaxlstm.load_state_dict(model, {f"{name}.weight": weight for name in present})
    assert result.complete
    assert model.encoder.embedding is model.decoder.embedding
    np.testing.assert_array_equal(model.decoder.embedding[...], weight)
    # torch expects both names.
    assert list(jaxlstm.state_dict(model)) == ["encoder.weight", "decoder.weight"]
    source = {"encoder.weight": torch.zeros(4, 3), "decoder.weight": torch.ones(4, 3)}
    with pytest.raises(jaxlstm.StateDictError, match=r"encoder.weight and decoder.weight differ.*tied"):
        jaxlstm.load_state_dict(model, source, strict=False)


def test_dtypes() -> None:
    """The dtype of the model wins; a cast that changes values must be requested."""
    theirs: Any = torch_model()
    model = flax_model(param_dtype=jnp.bfloat16)
    with pytest.raises(jaxlstm.StateDictError, match="values change from float32 to bfloat16") as error:
        jaxlstm.load_state_dict(model, theirs, names=NAMES)
    assert "cast=True" in str(error.value)
    assert isinstance(model.conv0.kernel.get_value(), jax.ShapeDtypeStruct)
    jaxlstm.load_state_dict(model, theirs, names=NAMES, cast=True)
    assert model.conv0.kernel[...].dtype == jnp.bfloat16
    assert model.bn0.mean[...].dtype == jnp.float32
    expected = theirs.lstm.weight_ih_l0.detach().numpy().astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(model.lstm.params["weight_ih_l0"], expected)
    half = torch_model().bfloat16()
    jaxlstm.load_state_dict(model, half, names=NAMES)
    # Wider is not lossy.
    jaxlstm.load_state_dict(flax_model(), half, names=NAMES)


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.0])
def test_nan_and_infinity_are_not_a_loss(value: float) -> None:
    model = nnx.Dict({"w": nnx.Param(jnp.zeros(2, jnp.bfloat16))})
    jaxlstm.load_state_dict(model, {"w": np.array([value, 1], "f")})
    np.testing.assert_array_equal(np.asarray(model["w"][...], "f"), np.array([value, 1], "f"))


def test_a_raw_weight_of_the_model_is_not_folded() -> None:
    """Weight drop stores the weight of an LSTM under this name; a model may have the name itself."""
    model = nnx.Dict({"weight_hh_l0_raw": nnx.Param(jnp.zeros((4, 1)))})
    jaxlstm.load_state_dict(model, {"weight_hh_l0_raw": np.ones((4, 1), np.float32)})
    assert (model["weight_hh_l0_raw"][...] == 1).all()


def test_arrays_are_copies() -> None:
    theirs = torch.nn.Linear(8, 8)
    model: Any = nnx.Linear(8, 8, rngs=nnx.Rngs(0))
    jaxlstm.load_state_dict(model, theirs)
    before = np.array(model.bias[...])
    with torch.no_grad():
        theirs.bias.zero_()
        theirs.weight.zero_()
    np.testing.assert_array_equal(model.bias[...], before)
    assert before.any()


def test_cells_report_their_biases() -> None:
    theirs: Any = torch.nn.LSTM(3, 4)
    model = nnx.RNN(nnx.OptimizedLSTMCell(3, 4, rngs=nnx.Rngs(0)))
    (note,) = jaxlstm.load_state_dict(model, theirs).notes
    assert "summed" in note
    lost = "the sum of bias_ih and bias_hh is written as bias_ih"
    with pytest.warns(jaxlstm.PortingWarning, match=lost) as caught:
        state_dict = jaxlstm.state_dict(model)
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(state_dict["bias_ih_l0"], (theirs.bias_ih_l0 + theirs.bias_hh_l0).detach())
    other = torch.nn.LSTM(3, 4)
    other.load_state_dict(state_dict)
    x = torch.randn(5, 2, 3)
    torch.testing.assert_close(other(x)[0], theirs(x)[0])


@pytest.mark.parametrize("dim", [0, 1, None])
@pytest.mark.parametrize("old", [True, False])
def test_weight_norm_is_folded_for_plain_layers(old: bool, dim: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        utils = torch.nn.utils if old else torch.nn.utils.parametrizations
        theirs: Any = torch.nn.ModuleDict({"fc": utils.weight_norm(torch.nn.Linear(3, 4), dim=dim)})
    model = nnx.Dict({"fc": nnx.Linear(3, 4, rngs=nnx.Rngs(0))})
    assert any("weight normalization" in note for note in jaxlstm.load_state_dict(model, theirs).notes)
    weight = theirs["fc"].weight
    np.testing.assert_allclose(model["fc"].kernel[...], np.asarray(weight.detach()).T, atol=1e-6)


def test_pruning_and_parametrizations_are_folded() -> None:
    theirs: Any = torch.nn.Linear(3, 4)
    prune.random_unstructured(theirs, "bias", 0.5)
    model: Any = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
    (note,) = jaxlstm.load_state_dict(model, theirs.state_dict()).notes
    assert note == "bias = bias_orig * bias_mask (pruning)"
    np.testing.assert_array_equal(model.bias[...], theirs.bias.detach())
    torch.nn.utils.parametrizations.spectral_norm(theirs, "weight").eval()
    with pytest.raises(jaxlstm.StateDictError, match="pass the torch module instead of its state dict"):
        jaxlstm.load_state_dict(model, theirs.state_dict())
    jaxlstm.load_state_dict(model, theirs)
    np.testing.assert_array_equal(model.kernel[...], theirs.weight.detach().T)


def test_quantized_weights_are_an_error() -> None:
    source = {"weight": np.ones((4, 3), np.int8), "bias": np.ones(4, np.float32)}
    model: Any = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
    with pytest.raises(jaxlstm.StateDictError, match=r"weight -> kernel: integers \(int8\)"):
        jaxlstm.load_state_dict(model, source, strict=False)
    jaxlstm.load_state_dict(model, source, cast=True)
    assert (model.kernel[...] == 1).all()


def test_registered_layer() -> None:
    class Dense(nnx.Module):
        def __init__(self, flip: bool) -> None:
            self.flip = flip
            self.w = nnx.Param(jnp.zeros((3, 4)))
            self.b = nnx.Param(jnp.zeros(4))

    class Flipped(Dense):
        pass

    def rows(layer: Dense) -> dict[str, Any]:
        flip = (lambda x: x.T[::-1], lambda x: x[::-1].T) if layer.flip else (np.transpose, np.transpose)
        return {"weight": ("w", *flip), "bias": "b"}

    jaxlstm.register_layer(Dense, rows)
    theirs = torch.nn.Linear(3, 4)
    for layer_type, flip in itertools.product((Dense, Flipped), (False, True)):
        model = layer_type(flip)
        jaxlstm.load_state_dict(model, theirs)
        expected = theirs.weight.detach().numpy().T
        np.testing.assert_array_equal(model.w[...], expected[::-1] if flip else expected)
        assert_equal(model, theirs, {})
    with pytest.raises(TypeError, match="layer_type must be a subclass"):
        jaxlstm.register_layer(int, {})


def test_parts_that_are_not_modules() -> None:
    """Lists, dicts and Pytrees in a module hold layers and parameters, too; a parent is not visited again."""

    class Part(nnx.Pytree):
        def __init__(self, parent: nnx.Module) -> None:
            self.parent = parent
            self.w = nnx.Param(jnp.ones(1))
            self.fc = nnx.Linear(2, 2, use_bias=False, rngs=nnx.Rngs(0))

    class Model(nnx.Module):
        def __init__(self) -> None:
            self.part = Part(self)
            self.data = nnx.data([nnx.Param(jnp.ones(1)), {"a": nnx.PReLU()}])
            self.window = jnp.ones(3)

    assert list(jaxlstm.state_dict(Model())) == ["part.w", "data.0", "part.fc.weight", "data.1.a.weight"]


def test_non_strict_writes_the_rest() -> None:
    model: Any = nnx.Dict({"a": nnx.Linear(2, 3, rngs=nnx.Rngs(0)), "b": nnx.Linear(2, 2, rngs=nnx.Rngs(0))})
    kept = np.array(model["b"].bias[...])
    shapes = {"a.weight": (3, 2), "a.bias": (4,), "b.weight": (2, 2), "c": (1,)}
    theirs = {name: torch.ones(shape) for name, shape in shapes.items()}
    result = jaxlstm.load_state_dict(model, theirs, strict=False)
    assert not result.complete
    assert [one.torch for one in result.misshapen] == ["a.bias"]
    assert [one.torch for one in result.missing] == ["b.bias"]
    assert [one.torch for one in result.unexpected] == ["c"]
    assert model["a"].kernel[...].all()
    np.testing.assert_array_equal(model["b"].bias[...], kept)
    assert "2 loaded, 1 missing, 1 unexpected, 1 misshapen" in str(result)
