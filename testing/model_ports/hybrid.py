"""A feed-forward block with an LSTM in torch, and its Flax port, right or with a planted fault."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import torch
from flax import nnx
from torch import nn
from torch.nn import functional

import jaxlstm
from testing.model_ports.fill import fill

FAULTS = {
    "gelu": r"gelu in forward has the tanh form instead of the exact one",
    "mask inverted": r"the mask of masked_fill in forward is inverted",
    "direction order": r"in lstm \(lstm\), the reverse direction's outputs come first",
    "pooled padding": r"masked_fill in forward is missing",
    "two faults": r"the epsilon of .*norm.* and .*gelu|gelu.* and the epsilon of",
}
"""The cause that the report must name, by fault."""


class TorchHybrid(nn.Module):
    """A feed-forward layer with a residual, an LSTM, and a mean over the valid steps."""

    def __init__(self) -> None:
        super().__init__()
        self.norm0, self.norm1 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.dense0, self.dense1 = nn.Linear(8, 16), nn.Linear(16, 8)
        self.lstm = nn.LSTM(8, 4, batch_first=True, bidirectional=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        x = self.norm0(x)
        x = self.norm1(x + self.dense1(functional.gelu(self.dense0(x))))
        y = self.lstm(x)[0].masked_fill(padding[..., None], 0.0)
        return self.head(y.sum(1) / (~padding).sum(1, keepdim=True))


class Hybrid(nnx.Module):
    """The port of :class:`TorchHybrid`."""

    def __init__(self, fault: str = "") -> None:
        rngs = nnx.Rngs(0)
        self.fault = fault
        norm: dict[str, Any] = {"use_fast_variance": False, "rngs": rngs}
        norm["epsilon"] = 1e-6 if fault == "two faults" else 1e-5
        self.norm0, self.norm1 = nnx.LayerNorm(8, **norm), nnx.LayerNorm(8, **norm)
        self.dense0 = nnx.Linear(8, 16, rngs=rngs)
        self.dense1 = nnx.Linear(16, 8, rngs=rngs)
        self.lstm = jaxlstm.nnx.LSTM(8, 4, batch_first=True, bidirectional=True, rngs=rngs)
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x: jax.Array, padding: jax.Array) -> jax.Array:
        x = self.norm0(x)
        approximate = self.fault in ("gelu", "two faults")
        x = self.norm1(x + self.dense1(nnx.gelu(self.dense0(x), approximate=approximate)))
        y = self.lstm(x)[0]
        if self.fault == "direction order":
            y = jnp.concatenate(jnp.split(y, 2, -1)[::-1], -1)
        if self.fault != "pooled padding":
            mask = ~padding if self.fault == "mask inverted" else padding
            y = jnp.where(mask[..., None], 0, y)
        return self.head(y.sum(1) / (~padding).sum(1, keepdims=True))


def hybrid(fault: str = "") -> tuple[TorchHybrid, Hybrid, tuple[Any, ...], None]:
    """Return torch's model, its port, the arguments, and the call of the port."""
    theirs, ours = TorchHybrid(), Hybrid(fault)
    for name in ("norm0", "norm1", "dense0", "dense1", "lstm", "head"):
        fill(getattr(ours, name), getattr(theirs, name))
    padding = torch.arange(6)[None, :] >= torch.tensor([6, 4, 3, 5])[:, None]
    return theirs, ours, (torch.randn(4, 6, 8), padding), None
