"""Where a model differs: the case, the layer, the shape, and the names of the results."""

from __future__ import annotations

import jax
import torch
from flax import nnx
from torch import nn

import jaxlstm
from jaxlstm.check import verify_model


class Halved(nn.Module):
    """A linear layer on every second step, without the last step of an odd number."""

    def __init__(self) -> None:
        super().__init__()
        self.dense, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.dense(x)[:, : x.shape[1] // 2 * 2 : 2]).sum(1)


class HalvedPort(nnx.Module):
    """The port of :class:`Halved` that keeps the last step of an odd number."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.dense, self.head = nnx.Linear(3, 4, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.dense(x)[:, ::2]).sum(1)


def test_fault_at_other_sizes_only():
    theirs, ours = Halved(), HalvedPort()
    jaxlstm.load_state_dict(ours, theirs)
    report = verify_model(ours, theirs, (torch.randn(2, 8, 3),), gradients=False)
    assert not report.ok
    _, case, layer = report.diagnosis
    assert case == "HalvedPort equals Halved on the example; with sizes 2 -> 1, 8 -> 1 it does not"
    assert layer.startswith("first differs between dense and head, whose inputs already differ: ")
    assert layer.endswith("shape (1, 1, 2) instead of (1, 0, 2)")
    assert [layer.ok for layer in report.layers] == [True, False, False]


class TwoResults(nn.Module):
    """A module whose dict of results is not in alphabetical order."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": 2 * x, "last": x[-1]}


def test_dict_of_results():
    """``jax.jit`` sorts its keys."""
    x = torch.randn(3, 2)
    assert verify_model(lambda x: {"y": 2 * x, "last": x[-1]}, TwoResults(), (x,)).ok
    missing = verify_model(lambda x: {"y": 2 * x}, TwoResults(), (x,))
    (item,) = (item for item in missing.items if item.name == "shape and dtype")
    assert item.detail.startswith(
        "example: the model returns outputs['y'], expected outputs['y'], outputs['last']"
    )


class Merged(nn.Module):
    """A model that merges time and batch before its linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.second(self.first(x.reshape(-1, x.shape[2])))
        return self.head(y).view(x.shape[0], x.shape[1], -1)


class MergedPort(nnx.Module):
    """The port of :class:`Merged` that merges no axes, batch first, with a ReLU before the head."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.first, self.second = nnx.Linear(3, 4, rngs=rngs), nnx.Linear(4, 4, rngs=rngs)
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.second(self.first(x.swapaxes(0, 1)))
        return self.head(jax.nn.relu(y)).swapaxes(0, 1)


def test_layers_whose_axes_torch_merges():
    theirs, ours = Merged(), MergedPort()
    jaxlstm.load_state_dict(ours, theirs)
    report = verify_model(ours, theirs, (torch.randn(5, 2, 3),), gradients=False)
    assert report.diagnosis[-1].startswith("first differs between second and head, whose inputs already")
    assert [layer.ok for layer in report.layers] == [True, True, False, False]
