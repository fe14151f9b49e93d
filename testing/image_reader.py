"""A model with the parts that whole programs have: blocks of layers, an LSTM, a tied layer and buffers."""

from typing import Any

import torch
from torch import nn


class Block(nn.Module):
    """A convolution and a norm; some blocks have other strides."""

    def __init__(self, features: int, stride: Any = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(features, 4, 3, stride, padding=1)
        self.norm = nn.BatchNorm2d(4, eps=1e-3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.norm(self.conv(x)))


class Reader(nn.Module):
    """Two blocks, an LSTM, a tied layer, and each kind of buffer."""

    mean: torch.Tensor
    table: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(0.3))
        self.register_buffer("table", torch.randn(3), persistent=False)
        self.blocks = nn.ModuleList([Block(1), Block(4, (2, 1))])
        self.rnn = nn.LSTM(4, 3, batch_first=True)
        self.out = nn.Linear(3, 3)
        self.again = nn.Linear(3, 3)
        self.again.weight = self.out.weight

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = images - self.mean
        for block in self.blocks:
            x = block(x)
        y, _ = self.rnn(x.mean(2).transpose(1, 2))
        return self.again(torch.tanh(self.out(y))) * self.table + torch.tensor([1.0, 2.0, 3.0])
