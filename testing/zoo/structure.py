"""Models whose structure written source keeps: lists, tied weights, loops, views, names."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from testing.modules import module_of
from testing.zoo.specimen import Specimen


class Block(nn.Module):
    """A convolution and a norm; some blocks have other strides."""

    def __init__(self, features: int, stride: Any = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(features, 4, 3, stride, padding=1)
        self.norm = nn.BatchNorm2d(4, eps=1e-3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.norm(self.conv(x)))


def tied() -> nn.Module:
    embedding, out = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
    out.weight = embedding.weight
    return module_of(lambda self, tokens: self.out(self.embedding(tokens)), embedding=embedding, out=out)


def twice(self: Any, x: Tensor) -> Tensor:
    """One module that is called twice, once for one of its results only."""
    h, c = self.cell(x)
    h, _ = self.cell(self.mix(h), (h, c))
    return self.mix(h)


def cells(self: Any, x: Tensor) -> Tensor:
    """A loop over a cell, which is first called without a state, and twice in a step."""
    h, outputs = self.gru(x[:, 0]), []
    for t in range(12):
        h = self.gru(x[:, t], self.gru(x[:, t], h))
        outputs.append(h)
    return torch.stack(outputs, dim=1)


def smaller(self: Any, x: Tensor) -> Tensor:
    """Two equal modules whose sizes follow from the size of the input."""
    for block in self.blocks:
        x = block(x)
    return x


def strided(self: Any, x: Tensor) -> Tensor:
    x = self.conv(x)
    return x.flatten(2).tanh().reshape(x.shape) + torch.arange(x.shape[-1])


def views(self: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Writes to views of views, whose shapes are free."""
    y = x.clone()
    flat = y.view(-1)
    flat[::2] = 0
    y[..., 1] += 3
    turned = y.transpose(0, 1)
    turned.mul_(2)
    return y, flat, turned


def masked(self: Any, x: Tensor, mask: Tensor) -> Tensor:
    """A mask that is written through a view, between convolutions."""
    x = x.transpose(1, 2)
    x.masked_fill_(mask.unsqueeze(1), 0.0)
    for conv in self.convs:
        x = conv(x)
        x.masked_fill_(mask.unsqueeze(1), 0.0)
    counts = (x > 0).long()
    counts.mul_(2).gt_(1)
    return x + counts


def branch(self: Any, x: Tensor) -> Tensor:
    return torch.cond(x.sum() > 0, lambda x: x.sin(), lambda x: x.cos() + 1, (x,))


def shared() -> nn.Module:
    """A module that belongs to its parent but is called by a sibling."""
    embedding, scale = nn.Linear(4, 4), nn.Parameter(torch.randn(4))
    decoder = module_of(
        lambda self, x: self.embedding(x * self.scale).tanh(), embedding=embedding, scale=scale
    )
    return module_of(lambda self, x: self.decoder(self.embedding(x)), embedding=embedding, decoder=decoder)


def aliased() -> nn.Module:
    """Modules that belong to their parent and to a Sequential of it, one with buffers."""
    conv, norm = nn.Conv1d(4, 4, 3, padding=1), nn.BatchNorm1d(4)
    net = nn.Sequential(nn.ReLU(), conv, norm, nn.Softmax(1))
    return module_of(lambda self, x: self.net(x) * math.sqrt(8) + 1e-5, conv=conv, norm=norm, net=net)


def parts(self: Any, x: Tensor) -> Tensor:
    """Writes to parts of a tensor, and a module of one operator."""
    y = x.clone()
    y.narrow(1, 0, 2).mul_(2)
    y.chunk(2, dim=1)[1].add_(1)
    y.unbind(1)[0].zero_()
    return self.twice(y.transpose(1, 2).transpose(2, 1))


def containers() -> nn.Module:
    """Parts in a ModuleDict, a ParameterList, nested Sequentials, and a list that is read backwards."""

    def forward(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.softmax(x)
        x = self.body(x * self.gains[1] + self.gains[0])
        for layer in reversed(self.layers):
            x = layer(x).relu()
        return self.heads["a-b"](x), self.heads["class"](x)

    inner = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    return module_of(
        forward,
        heads=nn.ModuleDict({"a-b": nn.Linear(4, 2), "class": nn.Linear(4, 3)}),
        gains=nn.ParameterList([nn.Parameter(torch.randn(4)) for _ in range(2)]),
        body=nn.Sequential(inner, nn.Identity(), nn.Sequential(nn.Linear(4, 4), nn.Sigmoid())),
        layers=several(nn.Linear, 4, 4),
        softmax=nn.Softmax(-1),
    )


def hostile(self: Any, self_: Tensor, nnx: Tensor) -> dict[str, Any]:
    """Attributes with names that mean something else in Flax or Python."""
    jnp = self.rngs(self_)
    return {"list": [self.jnp(jnp), None], "pair": (self.sow(nnx) + jnp,)}


def attention(self: Any, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    y, weights = self.attention(x, memory, memory)
    return x + y, weights


def pair(self: Any, x: Tensor, state: dict[str, Any]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    return self.lstm(x, state["h c"])


def computed(self: Any, x: Tensor) -> Tensor:
    """Convolutions with computed weights, pools and enlargements, with the channels last."""
    weight, bias = self.weight.tanh(), self.weight[0, :, 0]
    x = functional.conv1d(x, weight, bias, padding=1)
    x = functional.max_pool1d(x, 2) + functional.avg_pool1d(x, 2)
    x = functional.interpolate(functional.pad(x, (1, 1), mode="reflect"), scale_factor=2.0)
    return functional.adaptive_avg_pool1d(functional.conv1d(x, weight, padding="same"), 1)


def odd_order(self: Any, a: Tensor, b: Tensor) -> Tensor:
    """Two values whose names trade places, and an old value that is used after its name is taken."""
    old = a
    a, b = b * 2, a + 1
    a = a.sin() + b
    return a * old.cos() + b * (a + old)


def chain(self: Any, features: Tensor) -> tuple[Tensor, Tensor]:
    """Loops whose first round reads another variable, and one whose rounds use their value twice."""
    x = features
    for layer in self.first:
        x = layer(x).tanh() + x
    y = x
    for layer in self.second:
        y = layer(y)
    return x * features, y


def zipped(self: Any, x: Tensor) -> tuple[Tensor]:
    """A loop over two lists whose first round reads channels first, and a tuple of one result."""
    for conv, norm in zip(self.convs, self.norms, strict=True):
        x = norm(conv(x)).relu()
    return (x,)


def literals() -> nn.Module:
    """Two modules that differ in their literals, for which a class has arguments."""

    def block(size: int) -> nn.Module:
        def forward(self: Any, x: Tensor) -> Tensor:
            x = functional.conv1d(x, self.weight.tanh(), stride=size)
            return functional.pad(x * (size + 3), (size + 4, 1))[..., size + 5 :] + (size + 6)

        return module_of(forward, weight=nn.Parameter(torch.randn(4, 4, size)))

    return module_of(lambda self, x: self.second(self.first(x)), first=block(1), second=block(2))


def several(kind: Any, *args: int) -> nn.ModuleList:
    return nn.ModuleList(kind(*args) for _ in range(3))


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[int], tuple[Any, ...]]]] = {
    "tied": (tied, lambda n: (torch.randint(0, 7, (n, 3)),)),
    "twice": (
        lambda: module_of(twice, cell=nn.LSTMCell(3, 3), mix=nn.Linear(3, 3)),
        lambda n: (torch.randn(n, 3),),
    ),
    "cells": (lambda: module_of(cells, gru=nn.GRUCell(3, 3)), lambda n: (torch.randn(n, 12, 3),)),
    "chain": (
        lambda: module_of(chain, first=several(nn.Linear, 3, 3), second=several(nn.Linear, 3, 3)),
        lambda n: (torch.randn(n, 3),),
    ),
    "zipped": (
        lambda: module_of(zipped, convs=several(nn.Conv1d, 4, 4, 3), norms=several(nn.BatchNorm1d, 4)),
        lambda n: (torch.randn(n, 4, 9),),
    ),
    "views": (lambda: module_of(views), lambda n: (torch.randn(n, 4),)),
    "masked": (
        lambda: module_of(masked, convs=several(nn.Conv1d, 4, 4, 3, 1, 1)),
        lambda n: (torch.randn(n, 5, 4), torch.rand(n, 5) > 0.5),
    ),
    "cond": (lambda: module_of(branch), lambda n: (torch.randn(n, 4),)),
    "aliased": (aliased, lambda n: (torch.randn(n, 4, 9),)),
    "parts": (
        lambda: module_of(parts, twice=module_of(lambda self, x: x * 2), unused=nn.ModuleList([Block(3)])),
        lambda n: (torch.randn(n, 4, 3),),
    ),
    "shared": (shared, lambda n: (torch.randn(n, 4),)),
    "containers": (containers, lambda n: (torch.randn(n, 4),)),
    "hostile": (
        lambda: module_of(hostile, rngs=nn.Linear(3, 3), jnp=nn.Linear(3, 3), sow=nn.Linear(3, 3)),
        lambda n: (torch.randn(n, 3), torch.randn(n, 3)),
    ),
    "attention": (
        lambda: module_of(attention, attention=nn.MultiheadAttention(8, 2, batch_first=True)),
        lambda n: (torch.randn(n, 5, 8), torch.randn(n, 6, 8)),
    ),
    "pair": (
        lambda: module_of(pair, lstm=nn.LSTM(3, 4)),
        lambda n: (torch.randn(5, n, 3), {"h c": (torch.randn(1, n, 4), torch.randn(1, n, 4))}),
    ),
    "computed": (
        lambda: module_of(computed, weight=nn.Parameter(torch.randn(4, 4, 3))),
        lambda n: (torch.randn(n, 4, 8),),
    ),
    "smaller": (
        lambda: module_of(smaller, blocks=several(lambda: module_of(strided, conv=nn.Conv2d(3, 3, 3, 2, 1)))),
        lambda n: (torch.randn(n, 3, 17, 20 + n),),
    ),
    "literals": (literals, lambda n: (torch.randn(n, 4, 9),)),
    "odd order": (lambda: module_of(odd_order), lambda n: (torch.randn(n, 3), torch.randn(n, 3))),
}


NAMES = ("window_strides", "factor", "pad_width", "start", "offset")
LINES = {
    "literals": (
        "self.weight = nnx.Param(jnp.zeros(weight_shape, jnp.float32))",
        *(f"self.{name} = {name}" for name in NAMES),
    ),
    "chain": ("x = features", "for layer in self.first:", "for layer in self.second:"),
    "aliased": (
        "self.net = nnx.Sequential(nnx.relu, self.conv, self.norm, nnx.softmax)",
        "return (self.net(x.transpose(0, 2, 1)) * math.sqrt(8) + 1e-5).transpose(0, 2, 1)",
    ),
    "parts": (
        '"0.norm.weight": nnx.Param(jnp.zeros((4,), jnp.float32)),',
        "return y.at[:, 0].set(jnp.zeros_like(z)) * 2",
    ),
    "cells": ("    h = self.gru(x_t, self.gru(x_t, h))",),
    "pair": ('y, (h, c) = self.lstm(x, state["h c"])',),
    "smaller": ("for block in self.blocks:", "width = x.shape[2]"),
    "zipped": ("for conv, norm in zip(self.convs, self.norms):",),
}


SPECIMENS = {
    name: Specimen(make, inputs, (2,), ((3,), (1,)), lines=LINES.get(name, ()))
    for name, (make, inputs) in CASES.items()
}
