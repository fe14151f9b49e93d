"""A tagger in torch, and its Flax port, right or with a planted fault."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import torch
from flax import nnx
from torch import nn

import jaxlstm
from testing.model_ports.fill import fill

FAULTS = {
    "dropout": r"the model is in training mode: after model.eval\(\) it matches",
    "layer norm epsilon": r"the epsilon of every layer_norm is 1e-06 instead of 1e-05",
    "epsilon of one norm": r"the epsilon of norm0 \(layer_norm\) is 1e-06 instead of 1e-05",
    "norm missing": r"norm1 \(layer_norm\) is missing",
    "batch_first": r"lstm \(lstm\) has batch_first=True instead of False",
    "gate order": r"in lstm \(lstm\), the gates are read in the order i, g, o, f",
    "head bias": r"head.0 \(linear\) has no bias",
    "head transposed": r"the weight of head.0 \(linear\) is transposed",
    "activation": r"head.1 \(tanh\) is relu instead of tanh",
    "log_softmax": r"log_softmax in forward is missing",
}
"""The cause that the report must name, by fault."""


class TorchTagger(nn.Module):
    """Embedding, layer norm, a bidirectional LSTM of two layers over time-major data, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.norm0, self.norm1 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.drop = nn.Dropout(0.3)
        self.lstm = nn.LSTM(8, 4, num_layers=2, bidirectional=True)
        self.head = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 5))
        with torch.no_grad():
            for norm in (self.norm0, self.norm1):
                norm.weight.uniform_(0.5, 2.0)
                norm.bias.normal_()
            self.embed.weight.mul_(0.05)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.drop(self.norm0(self.embed(tokens)))
        x = self.norm1(self.lstm(x)[0])
        return torch.log_softmax(self.head(x), -1)


class Tagger(nnx.Module):
    """The port of :class:`TorchTagger`."""

    def __init__(self, fault: str = "") -> None:
        rngs = nnx.Rngs(0)
        self.fault = fault
        epsilons = {"layer norm epsilon": (1e-6, 1e-6), "epsilon of one norm": (1e-6, 1e-5)}
        self.embed = nnx.Embed(20, 8, rngs=rngs)
        self.norm0, self.norm1 = (
            nnx.LayerNorm(8, epsilon=epsilon, use_fast_variance=False, rngs=rngs)
            for epsilon in epsilons.get(fault, (1e-5, 1e-5))
        )
        self.drop = nnx.Dropout(0.3, deterministic=fault != "dropout", rngs=rngs)
        first = fault == "batch_first"
        self.lstm = jaxlstm.nnx.LSTM(
            8, 4, num_layers=2, bidirectional=True, batch_first=first, deterministic=True, rngs=rngs
        )
        self.dense0 = nnx.Linear(8, 8, use_bias=fault != "head bias", rngs=rngs)
        self.dense1 = nnx.Linear(8, 5, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = self.embed(tokens)
        x = self.lstm(self.drop(self.norm0(x)))[0]
        x = x if self.fault == "norm missing" else self.norm1(x)
        x = self.dense0(x)
        x = self.dense1(nnx.relu(x) if self.fault == "activation" else jnp.tanh(x))
        return x if self.fault == "log_softmax" else nnx.log_softmax(x)


def tagger(fault: str = "") -> tuple[TorchTagger, Tagger, tuple[Any, ...], None]:
    """Return torch's model, its port, the arguments, and the call of the port."""
    theirs, ours = TorchTagger(), Tagger(fault)
    for flax, torch_layer in (
        *((ours.embed, theirs.embed), (ours.norm0, theirs.norm0), (ours.norm1, theirs.norm1)),
        *((ours.lstm, theirs.lstm), (ours.dense0, theirs.head[0]), (ours.dense1, theirs.head[2])),
    ):
        fill(flax, torch_layer)
    if fault == "head transposed":
        ours.dense0.kernel[...] = ours.dense0.kernel[...].T
    if fault == "gate order":
        params = {n: a.detach().numpy() for n, a in theirs.lstm.named_parameters()}
        ours.lstm.load_params({n: _in_onnx_order(a) for n, a in params.items()})
    return theirs, ours, (torch.randint(1, 20, (7, 3)),), None


def _in_onnx_order(array: Any) -> Any:
    i, f, g, o = jnp.split(array, 4)
    return jnp.concatenate([i, o, f, g])
