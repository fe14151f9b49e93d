"""Linen models: names of submodules, collections, boxed parameters; and the snippets of docs/porting.md."""

import warnings
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax.core import FrozenDict, freeze

import jaxlstm
from testing.pages import ROOT, run_page

pytestmark = pytest.mark.filterwarnings("ignore::jaxlstm.PortingWarning")


class Model(nn.Module):
    """Submodules in a list, a dict, a Sequential, an RNN and, with automatic names, in the call."""

    def setup(self) -> None:
        self.layers = [nn.Dense(3), nn.BatchNorm(use_running_average=True)]
        self.heads = {"tag": nn.Dense(2)}
        self.mlp = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(3)])
        self.rnn = nn.RNN(nn.OptimizedLSTMCell(4))

    @nn.compact
    def __call__(self, x: Any) -> Any:
        for layer in self.layers:
            x = layer(x)
        x = self.mlp(self.mlp(x))
        x = self.heads["tag"](self.rnn(x))
        self.sow("intermediates", "x", x)
        cached = self.variable("cache", "steps", jnp.zeros, (), jnp.int32)
        x = nn.WeightNorm(nn.Dense(5, name="out"))(nn.RNN(nn.LSTMCell(3))(x))
        return x * self.param("scale", nn.initializers.ones, (5,)) + cached.value


class Torch(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList([torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)])
        self.heads = torch.nn.ModuleDict({"tag": torch.nn.Linear(4, 2)})
        self.mlp = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
        self.rnn = torch.nn.LSTM(3, 4)
        self.last = torch.nn.LSTM(2, 3)
        self.out = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(3, 5))
        self.scale = torch.nn.Parameter(torch.randn(5))


NAMES = {"last": "RNN_0", "out": "WeightNorm_0"}
X = jnp.ones((1, 4, 2))


@pytest.mark.parametrize("frozen", [False, True])
def test_names(frozen: bool) -> None:
    model = Model()
    theirs: Any = Torch()
    variables: Any = jax.tree.map(jnp.zeros_like, jax.eval_shape(model.init, jax.random.key(0), X))
    variables = freeze(variables) if frozen else variables
    loaded = jaxlstm.linen.load_state_dict(model, variables, theirs, inputs=X, names=NAMES)
    assert isinstance(loaded, FrozenDict) == frozen
    assert jax.tree.structure(loaded) == jax.tree.structure(variables)
    assert loaded["cache"]["steps"] == 0
    np.testing.assert_array_equal(loaded["params"]["heads_tag"]["kernel"], theirs.heads.tag.weight.detach().T)
    state_dict = jaxlstm.linen.state_dict(model, loaded, inputs=X, names=NAMES)
    other = Torch()
    other.load_state_dict(state_dict)
    for name, tensor in theirs.state_dict().items():
        if "bias_" not in name:  # the cells of Flax keep the sum
            assert torch.equal(other.state_dict()[name], tensor), name


def test_boxed_parameters() -> None:
    """Partitioned parameters keep their box with the names of the axes."""
    kernel = nn.with_partitioning(nn.initializers.zeros, (None, "model"))
    model, theirs = nn.Dense(3, kernel_init=kernel), torch.nn.Linear(2, 3)
    loaded = jaxlstm.linen.load_state_dict(model, model.init(jax.random.key(0), X), theirs, inputs=X)
    assert loaded["params"]["kernel"].names == (None, "model")
    np.testing.assert_array_equal(loaded["params"]["kernel"].unbox(), theirs.weight.detach().T)


def test_method() -> None:
    class Coder(nn.Module):
        def setup(self) -> None:
            self.encoder, self.decoder = nn.Dense(2), nn.Dense(2)

        def __call__(self, x: Any) -> Any:
            return self.encoder(x)

        def both(self, x: Any, *, double: bool) -> Any:
            return self.decoder(self.encoder(x)) * (2 if double else 1)

    theirs = torch.nn.ModuleDict({name: torch.nn.Linear(2, 2) for name in ("encoder", "decoder")})
    call: dict[str, Any] = {"inputs": X, "kwargs": {"double": True}, "method": Coder.both}
    variables = jax.eval_shape(lambda: Coder().init(jax.random.key(0), X, double=True, method=Coder.both))
    loaded = jaxlstm.linen.load_state_dict(Coder(), variables, theirs, **call)
    theirs.load_state_dict(jaxlstm.linen.state_dict(Coder(), loaded, **call))


class Optional(nn.Module):
    """A model that calls its second layer only on request."""

    @nn.compact
    def __call__(self, x: Any, decode: bool = False) -> Any:
        x = nn.Dense(3, name="fc")(x)
        return nn.Dense(2, name="out")(x) if decode else x


SOURCE = {"fc.weight": torch.ones(3, 2), "fc.bias": torch.ones(3)}


def optional_variables() -> Any:
    return Optional().init(jax.random.key(0), X, True)


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="inputs must reach every layer, but the call does not reach 'out'"):
        jaxlstm.linen.load_state_dict(Optional(), optional_variables(), SOURCE, inputs=X)
    with pytest.raises(TypeError, match=r"module must be a flax\.linen\.Module, got Torch"):
        jaxlstm.linen.load_state_dict(Torch(), {}, SOURCE, inputs=X)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="variables must be a dict of collections"):
        jaxlstm.linen.state_dict(Optional(), X, inputs=X)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="variables must hold collections"):
        jaxlstm.linen.state_dict(Optional(), {"fc": {}}, inputs=X)
    twice = {"params": {"fc": {"w": jnp.ones(2)}}, "buffers": {"fc": {"w": jnp.ones(2)}}}
    with pytest.raises(ValueError, match=r"variables must not have 'fc\.w' in two collections"):
        jaxlstm.linen.state_dict(Optional(), twice, inputs=X)


def test_variables_without_batch_statistics() -> None:
    module, theirs = nn.BatchNorm(use_running_average=True), torch.nn.BatchNorm1d(2)
    params = module.init(jax.random.key(0), X)["params"]
    with pytest.raises(jaxlstm.StateDictError, match="has no array 'mean'; variables must hold every coll"):
        jaxlstm.linen.load_state_dict(module, {"params": params}, theirs, inputs=X)


def test_the_argument_is_unchanged() -> None:
    variables = optional_variables()
    before = jax.tree.map(np.array, variables)
    with pytest.raises(jaxlstm.StateDictError, match=r"missing    out\.weight -> out\.kernel"):
        jaxlstm.linen.load_state_dict(Optional(), variables, SOURCE, inputs=(X, True))
    with pytest.warns(jaxlstm.PortingWarning, match="2 loaded, 2 missing"):
        loaded = jaxlstm.linen.load_state_dict(
            Optional(), variables, SOURCE, inputs=X, kwargs={"decode": True}, strict=False
        )
    assert loaded["params"]["fc"]["kernel"].all()
    jax.tree.map(np.testing.assert_array_equal, before, variables)
    jax.tree.map(np.testing.assert_array_equal, before["params"]["out"], loaded["params"]["out"])


def test_snippets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", jaxlstm.PortingWarning)
        names = run_page("porting.md")
    assert len(names["result"].loaded) == 21
    assert names["result"].complete
    theirs = torch.load("examples/demo.pt", weights_only=True)["model_state_dict"]
    assert names["state_dict"].keys() == theirs.keys()
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(names["state_dict"][name], tensor, err_msg=name)
    dense, linear = names["Dense"](), torch.nn.Linear(3, 4)
    jaxlstm.load_state_dict(dense, linear)
    np.testing.assert_array_equal(dense.kernel[...], linear.weight.detach().T)
