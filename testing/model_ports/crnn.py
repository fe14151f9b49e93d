"""A text recogniser in torch, and its Flax port, right or with a planted fault."""

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
    "flatten order": r"flatten in forward merges axes 2, 3 in the order 3, 2",
    "batch norm epsilon": r"the epsilon of every batch_norm is 0.001 instead of 1e-05",
    "batch statistics": r"the model is in training mode: after model.eval\(\) it matches",
    "relu": r"cnn.2 \(relu\) is missing",
    "pool stride": r"the stride of cnn.3 \(max_pool2d\) is 1",
    "pool padding": r"cnn.8 \(avg_pool2d\) pads as SAME does",
    "count_include_pad": r"cnn.8 \(avg_pool2d\) does not count the padding",
    "conv bias": r"cnn.4 \(conv2d\) has no bias",
    "conv SAME padding": r"cnn.7 \(conv2d\) pads as SAME does",
    "conv in bfloat16": r"the model is right in float64; its layers lose accuracy in float32",
    "leaky slope": r"the slope of cnn.6 \(leaky_relu\) is 0.01 instead of 0.1",
    "batch_first": r"lstm \(lstm\) has batch_first=False instead of True",
    "kernel axes": r"the height and width of the weight of cnn.0 \(conv2d\) are swapped",
}
"""The cause that the report must name, by fault."""


class TorchCRNN(nn.Module):
    """A text recogniser: convolutions, a bidirectional LSTM over the width, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.LeakyReLU(0.1),
            nn.Conv2d(4, 4, 3, stride=2, padding=1),
            nn.AvgPool2d(3, stride=(2, 1), padding=1),
        )
        self.lstm = nn.LSTM(8, 5, bidirectional=True, batch_first=True)
        self.fc = nn.Linear(10, 7)
        for norm in (self.cnn[1], self.cnn[5]):
            _randomize_statistics(norm)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.cnn(x).permute(0, 3, 1, 2).flatten(2)
        return self.fc(self.lstm(x)[0])


class CRNN(nnx.Module):
    """The port of :class:`TorchCRNN`, for images with channels last."""

    def __init__(self, fault: str = "") -> None:
        rngs = nnx.Rngs(0)
        self.fault = fault
        half = {"dtype": jnp.bfloat16} if fault == "conv in bfloat16" else {}
        norm: dict[str, Any] = {
            "rngs": rngs,
            "epsilon": 1e-3 if fault == "batch norm epsilon" else 1e-5,
            "use_running_average": fault != "batch statistics",
        }
        self.conv0 = nnx.Conv(1, 4, (3, 3), padding=1, rngs=rngs)
        self.bn0 = nnx.BatchNorm(4, **norm)
        self.conv1 = nnx.Conv(4, 4, (3, 3), padding=1, use_bias=fault != "conv bias", rngs=rngs, **half)
        self.bn1 = nnx.BatchNorm(4, **norm)
        padding = "SAME" if fault == "conv SAME padding" else 1
        self.conv2 = nnx.Conv(4, 4, (3, 3), strides=2, padding=padding, rngs=rngs)
        batch_first = fault != "batch_first"
        self.lstm = jaxlstm.nnx.LSTM(8, 5, bidirectional=True, batch_first=batch_first, rngs=rngs)
        self.fc = nnx.Linear(10, 7, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.bn0(self.conv0(x))
        x = x if self.fault == "relu" else nnx.relu(x)
        strides = (1, 1) if self.fault == "pool stride" else (2, 2)
        x = nnx.max_pool(x, (2, 2), strides=strides)
        x = self.bn1(self.conv1(x))
        x = nnx.leaky_relu(x, 0.01 if self.fault == "leaky slope" else 0.1)
        x = self.conv2(x)
        padding: Any = "SAME" if self.fault == "pool padding" else ((1, 1), (1, 1))
        count = self.fault != "count_include_pad"
        x = nnx.avg_pool(x, (3, 3), strides=(2, 1), padding=padding, count_include_pad=count)
        x = x.transpose(0, 2, 1, 3) if self.fault == "flatten order" else x.transpose(0, 2, 3, 1)
        return self.fc(self.lstm(x.reshape(*x.shape[:2], -1))[0])


def crnn(fault: str = "") -> tuple[TorchCRNN, CRNN, tuple[Any, ...], Any]:
    """Return torch's model, its port, the arguments, and the call of the port."""
    theirs, ours = TorchCRNN(), CRNN(fault)
    cnn = list(theirs.cnn)
    for flax, torch_layer in (
        *((ours.conv0, cnn[0]), (ours.bn0, cnn[1]), (ours.conv1, cnn[4]), (ours.bn1, cnn[5])),
        *((ours.conv2, cnn[7]), (ours.lstm, theirs.lstm), (ours.fc, theirs.fc)),
    ):
        fill(flax, torch_layer)
    if fault == "kernel axes":
        ours.conv0.kernel[...] = ours.conv0.kernel[...].swapaxes(0, 1)
    x = torch.randn(3, 1, 16, 12)
    return theirs, ours, (x,), lambda model, x: model(x.transpose(0, 2, 3, 1))


def _randomize_statistics(norm: nn.BatchNorm2d) -> None:
    with torch.no_grad():
        for tensor in (norm.running_mean, norm.bias):
            tensor.normal_()  # type: ignore[union-attr]
        for tensor in (norm.running_var, norm.weight):
            tensor.uniform_(0.5, 2.0)  # type: ignore[union-attr]
