"""Random torch models over sequences, and their right Flax ports."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch import nn
from torch.nn import functional

import jaxlstm
from testing.model_ports.fill import fill

KINDS = ("linear", "layer norm", "group norm", "batch norm", "conv", "lstm", "attention", "feed forward")
ACTIVATIONS = {
    "relu": (functional.relu, nnx.relu),
    "gelu": (functional.gelu, lambda x: nnx.gelu(x, approximate=False)),
    "tanh gelu": (lambda x: functional.gelu(x, approximate="tanh"), nnx.gelu),
    "silu": (functional.silu, nnx.silu),
    "tanh": (torch.tanh, jnp.tanh),
    "elu": (functional.elu, nnx.elu),
}


class TorchModel(nn.Module):
    """Layers over (batch, time, features), and a mean over time or a log-softmax."""

    def __init__(self, kinds: list[tuple[str, str]], width: int, tokens: int, pooled: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(tokens, width) if tokens else nn.Linear(3, width)
        self.layers = nn.ModuleList([_torch_layer(kind, width) for kind, _ in kinds])
        self.activations = [ACTIVATIONS[name][0] for _, name in kinds]
        self.pooled = pooled
        self.head = nn.Linear(width, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        for layer, activation in zip(self.layers, self.activations, strict=True):
            match layer:
                case nn.LSTM():
                    x = layer(x)[0]
                case nn.MultiheadAttention():
                    x = x + layer(x, x, x, need_weights=False)[0]
                case nn.Conv1d() | nn.GroupNorm() | nn.BatchNorm1d():
                    x = layer(x.transpose(1, 2)).transpose(1, 2)
                case nn.Sequential():
                    x = x + layer[1](activation(layer[0](x)))
                case _:
                    x = activation(layer(x))
        return self.head(x.mean(1)) if self.pooled else torch.log_softmax(self.head(x), -1)


class FlaxModel(nnx.Module):
    """The port of :class:`TorchModel`."""

    def __init__(self, theirs: TorchModel, kinds: list[tuple[str, str]], width: int, tokens: int) -> None:
        rngs = nnx.Rngs(0)
        self.embed = nnx.Embed(tokens, width, rngs=rngs) if tokens else nnx.Linear(3, width, rngs=rngs)
        self.layers = nnx.List([_flax_layer(kind, width, rngs) for kind, _ in kinds])
        self.activations = [ACTIVATIONS[name][1] for _, name in kinds]
        self.pooled = theirs.pooled
        self.head = nnx.Linear(width, 4, rngs=rngs)
        fill(self.embed, theirs.embed)
        fill(self.head, theirs.head)
        for ours, layer in zip(self.layers, theirs.layers, strict=True):
            if isinstance(layer, nn.Sequential):
                for part, torch_part in zip(ours, layer, strict=True):
                    fill(part, torch_part)
            else:
                fill(ours, layer)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.embed(x)
        for layer, activation in zip(self.layers, self.activations, strict=True):
            match layer:
                case jaxlstm.nnx.LSTM():
                    x = layer(x)[0]
                case nnx.MultiHeadAttention():
                    x = x + layer(x)
                case nnx.Conv() | nnx.GroupNorm() | nnx.BatchNorm():
                    x = layer(x)
                case nnx.List():
                    x = x + layer[1](activation(layer[0](x)))
                case _:
                    x = activation(layer(x))
        return self.head(x.mean(1)) if self.pooled else nnx.log_softmax(self.head(x))


def random_models(seed: int) -> tuple[TorchModel, FlaxModel, tuple[Any, ...]]:
    """Return a random torch model, its right port, and the arguments."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    width, tokens = int(rng.choice([4, 6, 8])), int(rng.choice([0, 12]))
    count = rng.integers(2, 5)
    kinds = [(str(rng.choice(KINDS)), str(rng.choice(list(ACTIVATIONS)))) for _ in range(count)]
    theirs = TorchModel(kinds, width, tokens, bool(rng.integers(2))).eval()
    with torch.no_grad():
        for name, tensor in theirs.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2)
            elif tensor.is_floating_point() and tensor.ndim == 1:
                tensor.add_(0.1 * torch.randn(tensor.shape))
    ours = FlaxModel(theirs, kinds, width, tokens)
    batch, time = int(rng.integers(1, 5)), int(rng.integers(2, 8))
    x = torch.randint(tokens, (batch, time)) if tokens else torch.randn(batch, time, 3)
    return theirs, ours, (x,)


def _torch_layer(kind: str, width: int) -> nn.Module:
    return {
        "linear": lambda: nn.Linear(width, width),
        "layer norm": lambda: nn.LayerNorm(width),
        "group norm": lambda: nn.GroupNorm(2, width),
        "batch norm": lambda: nn.BatchNorm1d(width),
        "conv": lambda: nn.Conv1d(width, width, 3, padding=1),
        "lstm": lambda: nn.LSTM(width, width // 2, 2, batch_first=True, bidirectional=True),
        "attention": lambda: nn.MultiheadAttention(width, 2, batch_first=True),
        "feed forward": lambda: nn.Sequential(nn.Linear(width, 2 * width), nn.Linear(2 * width, width)),
    }[kind]()


def _flax_layer(kind: str, width: int, rngs: nnx.Rngs) -> Any:
    norm: dict[str, Any] = {"epsilon": 1e-5, "rngs": rngs}
    lstm: dict[str, Any] = {"batch_first": True, "bidirectional": True, "rngs": rngs}
    return {
        "linear": lambda: nnx.Linear(width, width, rngs=rngs),
        "layer norm": lambda: nnx.LayerNorm(width, use_fast_variance=False, **norm),
        "group norm": lambda: nnx.GroupNorm(width, num_groups=2, use_fast_variance=False, **norm),
        "batch norm": lambda: nnx.BatchNorm(width, use_running_average=True, **norm),
        "conv": lambda: nnx.Conv(width, width, (3,), padding=1, rngs=rngs),
        "lstm": lambda: jaxlstm.nnx.LSTM(width, width // 2, 2, **lstm),
        "attention": lambda: nnx.MultiHeadAttention(2, width, decode=False, rngs=rngs),
        "feed forward": lambda: nnx.List(
            [nnx.Linear(width, 2 * width, rngs=rngs), nnx.Linear(2 * width, width, rngs=rngs)]
        ),
    }[kind]()
