"""Whole models: names, wrappers, tied weights, dtypes, and the result."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from flax import nnx

import jaxlstm

NAMES = {"cnn.0": "conv0", "cnn.1": "bn0", "blocks": "layers"}


class Torch(torch.nn.Module):
    """A model with a list and a dict of modules, a Sequential, a bare parameter and a buffer."""

    scale: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.cnn = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 2), torch.nn.BatchNorm2d(3))
        self.blocks = torch.nn.ModuleList([torch.nn.Linear(3, 3), torch.nn.LayerNorm(3)])
        self.heads = torch.nn.ModuleDict({"tag": torch.nn.Linear(3, 2)})
        self.mlp = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
        self.lstm = torch.nn.LSTM(3, 5, batch_first=True)
        self.weight = torch.nn.Parameter(torch.randn(2, 3))
        self.register_buffer("scale", torch.randn(()))


class Flax(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, param_dtype: Any = jnp.float32) -> None:
        options: dict[str, Any] = {"rngs": rngs, "param_dtype": param_dtype}
        self.conv0 = nnx.Conv(1, 3, (2, 2), padding=0, **options)
        self.bn0 = nnx.BatchNorm(3, **options)
        self.layers = nnx.List([nnx.Linear(3, 3, **options), nnx.LayerNorm(3, **options)])
        self.heads = nnx.Dict({"tag": nnx.Linear(3, 2, **options)})
        self.mlp = nnx.Sequential(nnx.Linear(3, 4, **options), nnx.relu, nnx.Linear(4, 3, **options))
        self.lstm = jaxlstm.nnx.LSTM(3, 5, batch_first=True, **options)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.weight = nnx.Param(jnp.zeros((2, 3), param_dtype))
        self.scale = nnx.BatchStat(jnp.zeros((), param_dtype))


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jaxlstm.PortingWarning)
        yield


def flax_model(**kwargs: Any) -> Flax:
    """Return a model without values, which is filled faster than a random one."""
    return nnx.eval_shape(lambda: Flax(nnx.Rngs(0), **kwargs))


def torch_model() -> Torch:
    model = Torch()
    model.cnn[1].running_mean = torch.randn(3)
    model.cnn[1].running_var = torch.rand(3)
    return model


def assert_equal(model: nnx.Module, theirs: torch.nn.Module, names: dict[str, str] = NAMES) -> None:
    """Assert that the model gives back the state dict of the torch model, bit for bit."""
    ours = jaxlstm.state_dict(model, names=names)
    expected = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    assert ours.keys() == expected.keys()
    for name, array in expected.items():
        assert ours[name].dtype == array.dtype
        np.testing.assert_array_equal(ours[name], array, err_msg=name)


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
    class Two(nnx.Module):
        def __init__(self) -> None:
            self.a = nnx.Param(jnp.zeros(1))
            self.b = nnx.Param(jnp.zeros(1))

    model = Two()
    source = {"a": np.ones(1, "f"), "b": np.full(1, 2, "f")}
    jaxlstm.load_state_dict(model, source, names={"a": "b", "b": "a"})
    assert model.a[...] == 2
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


@pytest.mark.parametrize("start", ["module.", "model_state_dict.", "model_state_dict.module."])
def test_names_with_wrappers(start: str) -> None:
    """The keys of ``names`` may be names as they are in the file."""
    model, theirs = flax_model(), torch_model()
    source = WRAPPERS["nested, data parallel"](theirs)
    jaxlstm.load_state_dict(model, source, names={start + torch: flax for torch, flax in NAMES.items()})
    assert_equal(model, theirs)


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


def test_a_model_that_uses_the_name_of_a_wrapper() -> None:
    class Wrapper(nnx.Module):
        def __init__(self) -> None:
            self.module = nnx.Linear(2, 3, rngs=nnx.Rngs(0))

    model = Wrapper()
    theirs = torch.nn.ModuleDict({"module": torch.nn.Linear(2, 3)})
    jaxlstm.load_state_dict(model, theirs)
    assert_equal(model, theirs, {})


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


def test_tied_weights_that_differ() -> None:
    model = Tied("module")
    source = {"encoder.weight": torch.zeros(4, 3), "decoder.weight": torch.ones(4, 3)}
    with pytest.raises(jaxlstm.StateDictError, match=r"encoder.weight and decoder.weight differ.*tied"):
        jaxlstm.load_state_dict(model, source, strict=False)


def test_weights_tied_only_in_torch() -> None:
    theirs = torch.nn.ModuleDict(
        {"embed": torch.nn.Embedding(4, 3), "out": torch.nn.Linear(3, 4, bias=False)}
    )
    theirs["out"].weight = theirs["embed"].weight
    model = nnx.Dict({"embed": nnx.Embed(4, 3, rngs=nnx.Rngs(0))})
    with pytest.raises(jaxlstm.StateDictError, match=r"same tensor as 'embed\.weight'") as error:
        jaxlstm.load_state_dict(model, theirs)
    names = {"out": "embed", "embed": "embed"}
    assert str(names) in str(error.value)
    jaxlstm.load_state_dict(model, theirs, names=names)
    theirs.load_state_dict(jaxlstm.state_dict(model, names=names))


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
    with pytest.warns(jaxlstm.PortingWarning, match="the sum of bias_ih and bias_hh is written as bias_ih"):
        state_dict = jaxlstm.state_dict(model)
    np.testing.assert_array_equal(state_dict["bias_ih_l0"], (theirs.bias_ih_l0 + theirs.bias_hh_l0).detach())
    other = torch.nn.LSTM(3, 4)
    other.load_state_dict(state_dict)
    x = torch.randn(5, 2, 3)
    torch.testing.assert_close(other(x)[0], theirs(x)[0])


@pytest.mark.parametrize("old", [True, False])
def test_weight_norm_is_folded_for_plain_layers(old: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        utils = torch.nn.utils if old else torch.nn.utils.parametrizations
        theirs: Any = torch.nn.ModuleDict({"fc": utils.weight_norm(torch.nn.Linear(3, 4))})
    model = nnx.Dict({"fc": nnx.Linear(3, 4, rngs=nnx.Rngs(0))})
    result = jaxlstm.load_state_dict(model, theirs)
    assert any("weight normalization" in note for note in result.notes)
    weight = theirs["fc"].weight
    np.testing.assert_allclose(model["fc"].kernel[...], np.asarray(weight.detach()).T, atol=1e-6)


def test_batch_norm_in_training() -> None:
    """Equal outputs; torch averages the unbiased variance, Flax the biased one."""
    theirs: Any = torch.nn.BatchNorm1d(3)
    model = nnx.BatchNorm(3, momentum=0.9, epsilon=1e-5, use_fast_variance=False, rngs=nnx.Rngs(0))
    jaxlstm.load_state_dict(model, theirs)
    x = np.random.default_rng(0).standard_normal((5, 3)).astype("f")
    np.testing.assert_allclose(model(jnp.asarray(x)), theirs(torch.tensor(x)).detach(), atol=1e-6)
    np.testing.assert_allclose(model.mean[...], theirs.running_mean, atol=1e-7)
    ours, unbiased = np.asarray(model.var[...]) - 0.9, np.asarray(theirs.running_var) - 0.9
    np.testing.assert_allclose(ours * 5 / 4, unbiased, atol=1e-6)
    assert jaxlstm.state_dict(model)["num_batches_tracked"] == 0


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


def test_references_to_a_parent() -> None:
    class Child(nnx.Module):
        def __init__(self, parent: nnx.Module) -> None:
            self.parent = parent
            self.fc = nnx.Linear(2, 2, rngs=nnx.Rngs(0))

    class Parent(nnx.Module):
        def __init__(self) -> None:
            self.scale = nnx.Param(jnp.ones(1))
            self.child = Child(self)

    assert list(jaxlstm.state_dict(Parent())) == ["scale", "child.fc.weight", "child.fc.bias"]


def test_parts_that_are_not_modules() -> None:
    """Lists, dicts and Pytrees in a module hold layers and parameters, too."""

    class Part(nnx.Pytree):
        def __init__(self) -> None:
            self.w = nnx.Param(jnp.ones(1))
            self.fc = nnx.Linear(2, 2, use_bias=False, rngs=nnx.Rngs(0))

    class Model(nnx.Module):
        def __init__(self) -> None:
            self.part = Part()
            self.data = nnx.data([nnx.Param(jnp.ones(1)), {"a": nnx.PReLU()}])
            self.window = jnp.ones(3)

    assert list(jaxlstm.state_dict(Model())) == ["part.w", "data.0", "part.fc.weight", "data.1.a.weight"]


def test_non_strict_writes_the_rest() -> None:
    model: Any = nnx.Dict({"a": nnx.Linear(2, 3, rngs=nnx.Rngs(0)), "b": nnx.Linear(2, 2, rngs=nnx.Rngs(0))})
    kept = np.array(model["b"].bias[...])
    theirs = {
        "a.weight": torch.ones(3, 2),
        "a.bias": torch.ones(4),
        "b.weight": torch.ones(2, 2),
        "c": torch.ones(1),
    }
    result = jaxlstm.load_state_dict(model, theirs, strict=False)
    assert not result.complete
    assert [one.torch for one in result.misshapen] == ["a.bias"]
    assert [one.torch for one in result.missing] == ["b.bias"]
    assert [one.torch for one in result.unexpected] == ["c"]
    assert model["a"].kernel[...].all()
    np.testing.assert_array_equal(model["b"].bias[...], kept)
    assert "2 loaded, 1 missing, 1 unexpected, 1 misshapen" in str(result)
