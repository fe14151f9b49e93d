"""A model in torch and in Flax with most kinds of containers, for tests of whole models."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

import jaxlstm
from testing.modules import arrays, randomized

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


def flax_model(**kwargs: Any) -> Flax:
    """Return a model without values, which is filled faster than a random one."""
    return nnx.eval_shape(lambda: Flax(nnx.Rngs(0), **kwargs))


def torch_model() -> Torch:
    return randomized(Torch())


def assert_equal(model: nnx.Module, theirs: torch.nn.Module, names: dict[str, str] = NAMES) -> None:
    """Assert that the model gives back the state dict of the torch model, bit for bit."""
    ours = jaxlstm.state_dict(model, names=names)
    jax.tree.map(partial(np.testing.assert_array_equal, strict=True), ours, arrays(theirs))
