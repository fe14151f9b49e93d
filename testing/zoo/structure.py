"""Models whose structure written source keeps: lists, tied weights, loops, views, names."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from testing.image_reader import Block
from testing.modules import module_of
from testing.zoo.specimen import Specimens, normal

SPECIMENS = Specimens(example=(2,), others=((3,), (1,)))


def several(kind: Any, *args: int) -> nn.ModuleList:
    return nn.ModuleList(kind(*args) for _ in range(3))


def strided(self: Any, x: Tensor) -> Tensor:
    x = self.conv(x)
    return x.flatten(2).tanh().reshape(x.shape) + torch.arange(x.shape[-1])


@SPECIMENS.of(lambda n: (torch.randint(0, 7, (n, 3)),))
def tied() -> nn.Module:
    embedding, out = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
    out.weight = embedding.weight
    return module_of(lambda self, tokens: self.out(self.embedding(tokens)), embedding=embedding, out=out)


@SPECIMENS.of(normal((3,)), lambda: {"cell": nn.LSTMCell(3, 3), "mix": nn.Linear(3, 3)})
def twice(self: Any, x: Tensor) -> Tensor:
    """One module that is called twice, once for one of its results only."""
    h, c = self.cell(x)
    h, _ = self.cell(self.mix(h), (h, c))
    return self.mix(h)


@SPECIMENS.of(
    normal((12, 3)), lambda: {"gru": nn.GRUCell(3, 3)}, lines=["    h = self.gru(x_t, self.gru(x_t, h))"]
)
def cells(self: Any, x: Tensor) -> Tensor:
    """A loop over a cell, which is first called without a state, and twice in a step."""
    h, outputs = self.gru(x[:, 0]), []
    for t in range(12):
        h = self.gru(x[:, t], self.gru(x[:, t], h))
        outputs.append(h)
    return torch.stack(outputs, dim=1)


@SPECIMENS.of(
    lambda n: (torch.randn(n, 3, 17, 20 + n),),
    lambda: {"blocks": several(lambda: module_of(strided, conv=nn.Conv2d(3, 3, 3, 2, 1)))},
    lines=["for block in self.blocks:", "width = x.shape[2]"],
)
def smaller(self: Any, x: Tensor) -> Tensor:
    """Two equal modules whose sizes follow from the size of the input."""
    for block in self.blocks:
        x = block(x)
    return x


@SPECIMENS.of(normal((4,)))
def views(self: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Writes to views of views, whose shapes are free."""
    y = x.clone()
    flat = y.view(-1)
    flat[::2] = 0
    y[..., 1] += 3
    turned = y.transpose(0, 1)
    turned.mul_(2)
    return y, flat, turned


@SPECIMENS.of(
    lambda n: (torch.randn(n, 5, 4), torch.rand(n, 5) > 0.5),
    lambda: {"convs": several(nn.Conv1d, 4, 4, 3, 1, 1)},
)
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


@SPECIMENS.of(normal((4,)))
def branch(self: Any, x: Tensor) -> Tensor:
    return torch.cond(x.sum() > 0, lambda x: x.sin(), lambda x: x.cos() + 1, (x,))


@SPECIMENS.of(normal((4,)))
def shared() -> nn.Module:
    """A module that belongs to its parent but is called by a sibling."""
    embedding, scale = nn.Linear(4, 4), nn.Parameter(torch.randn(4))
    decoder = module_of(
        lambda self, x: self.embedding(x * self.scale).tanh(), embedding=embedding, scale=scale
    )
    return module_of(lambda self, x: self.decoder(self.embedding(x)), embedding=embedding, decoder=decoder)


@SPECIMENS.of(
    normal((4, 9)),
    lines=[
        "self.net = nnx.Sequential(nnx.relu, self.conv, self.norm, nnx.softmax)",
        "return (self.net(x.transpose(0, 2, 1)) * math.sqrt(8) + 1e-5).transpose(0, 2, 1)",
    ],
)
def aliased() -> nn.Module:
    """Modules that belong to their parent and to a Sequential of it, one with buffers."""
    conv, norm = nn.Conv1d(4, 4, 3, padding=1), nn.BatchNorm1d(4)
    net = nn.Sequential(nn.ReLU(), conv, norm, nn.Softmax(1))
    return module_of(lambda self, x: self.net(x) * math.sqrt(8) + 1e-5, conv=conv, norm=norm, net=net)


@SPECIMENS.of(
    normal((4, 3)),
    lambda: {"twice": module_of(lambda self, x: x * 2), "unused": nn.ModuleList([Block(3)])},
    lines=[
        '"0.norm.weight": nnx.Param(jnp.zeros((4,), jnp.float32)),',
        "return y.at[:, 0].set(jnp.zeros_like(z)) * 2",
    ],
)
def parts(self: Any, x: Tensor) -> Tensor:
    """Writes to parts of a tensor, and a module of one operator."""
    y = x.clone()
    y.narrow(1, 0, 2).mul_(2)
    y.chunk(2, dim=1)[1].add_(1)
    y.unbind(1)[0].zero_()
    return self.twice(y.transpose(1, 2).transpose(2, 1))


@SPECIMENS.of(normal((4,)))
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


@SPECIMENS.of(normal((3,), (3,)), lambda: {name: nn.Linear(3, 3) for name in ("rngs", "jnp", "sow")})
def hostile(self: Any, self_: Tensor, nnx: Tensor) -> dict[str, Any]:
    """Attributes with names that mean something else in Flax or Python."""
    jnp = self.rngs(self_)
    return {"list": [self.jnp(jnp), None], "pair": (self.sow(nnx) + jnp,)}


@SPECIMENS.of(normal((5, 8), (6, 8)), lambda: {"attention": nn.MultiheadAttention(8, 2, batch_first=True)})
def attention(self: Any, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    y, weights = self.attention(x, memory, memory)
    return x + y, weights


@SPECIMENS.of(
    normal((5, 8), (6, 8)),
    lambda: {
        "own": nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True),
        "cross": nn.MultiheadAttention(8, 4, bias=False),
    },
    proven=True,
    words={"nnx.MultiHeadAttention(": 2, "self.own(x": 2, "class MultiheadAttention": 0},
)
def attention_as_layers(self: Any, x: Tensor, memory: Tensor) -> Tensor:
    """Attention with the batch first and second, whose weights nobody wants, and one with a causal mask."""
    x = x + self.own(x, x, x, need_weights=False)[0]
    mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
    x = x * self.own(x, x, x, need_weights=False, attn_mask=mask, is_causal=True)[0]
    memory = memory.transpose(0, 1)
    y, _ = self.cross(x.transpose(0, 1), memory, memory * 2)
    return y.transpose(0, 1) + x


@SPECIMENS.of(
    lambda n: (torch.randn(n, 5, 8), torch.arange(5) >= torch.arange(n)[:, None]),
    lambda: {"attention": nn.MultiheadAttention(8, 2, batch_first=True)},
    eager=((2,), (3,)),
)
def masked_attention(self: Any, x: Tensor, mask: Tensor) -> Tensor:
    """The first row has no key: torch gives zeros if nobody wants the weights."""
    return self.attention(x, x, x, key_padding_mask=mask, need_weights=False)[0]


@SPECIMENS.of(
    lambda n: (torch.randn(n, 6, 3 + n),),
    lambda: {"conv": nn.Conv1d(6, 6, 1), "scale": nn.Parameter(torch.randn(6))},
    words={"jaxlstm.programs": 0},
    proven=True,
)
def norms(self: Any, x: Tensor) -> Tensor:
    """Norms that are functions, with the channels last, and an axis that may have any size."""
    x = functional.group_norm(self.conv(x), 2, self.scale, self.scale)
    return functional.group_norm(functional.instance_norm(x), 3).squeeze(2)


@SPECIMENS.of(
    normal((4, 4), (3,)),
    lambda: {"net": nn.Sequential(nn.GroupNorm(2, 4), nn.ReLU()), "cell": nn.RNNCell(4, 3)},
    words={"def __call__(self, x, hx):": 2, "self.net = nnx.List(": 1},
    proven=True,
)
def channels_first(self: Any, x: Tensor, hx: Tensor) -> Tensor:
    """A norm in a Sequential that needs code around Flax's, and a cell whose input is called `input`."""
    return self.cell(self.net(x).mean(2), hx)


@SPECIMENS.of(
    lambda n: (torch.randn(5, n, 3), {"h c": (torch.randn(1, n, 4), torch.randn(1, n, 4))}),
    lambda: {"lstm": nn.LSTM(3, 4)},
    lines=['y, (h, c) = self.lstm(x, state["h c"])'],
)
def pair(self: Any, x: Tensor, state: dict[str, Any]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    return self.lstm(x, state["h c"])


@SPECIMENS.of(normal((4, 8)), lambda: {"weight": nn.Parameter(torch.randn(4, 4, 3))})
def computed(self: Any, x: Tensor) -> Tensor:
    """Convolutions with computed weights, pools and enlargements, with the channels last."""
    weight, bias = self.weight.tanh(), self.weight[0, :, 0]
    x = functional.conv1d(x, weight, bias, padding=1)
    x = functional.max_pool1d(x, 2) + functional.avg_pool1d(x, 2)
    x = functional.interpolate(functional.pad(x, (1, 1), mode="reflect"), scale_factor=2.0)
    return functional.adaptive_avg_pool1d(functional.conv1d(x, weight, padding="same"), 1)


@SPECIMENS.of(normal((3,), (3,)), words={"jnp.exp": 0})
def odd_order(self: Any, a: Tensor, b: Tensor) -> Tensor:
    """Two values whose names trade places, an old value that is used after its name is taken, a dead one."""
    old, _ = a, a.exp()
    a, b = b * 2, a + 1
    a = a.sin() + b
    return a * old.cos() + b * (a + old)


@SPECIMENS.of(
    normal((3,)),
    lambda: {"first": several(nn.Linear, 3, 3), "second": several(nn.Linear, 3, 3)},
    lines=["x = features", "for layer in self.first:", "for layer in self.second:"],
)
def chain(self: Any, features: Tensor) -> tuple[Tensor, Tensor]:
    """Loops whose first round reads another variable, and one whose rounds use their value twice."""
    x = features
    for layer in self.first:
        x = layer(x).tanh() + x
    y = x
    for layer in self.second:
        y = layer(y)
    return x * features, y


def stage() -> nn.Module:
    return nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])


@SPECIMENS.of(
    normal((3,)),
    lambda: {
        "layers": several(nn.Linear, 3, 3),
        "cells": several(nn.LSTMCell, 3, 3),
        "stages": several(stage),
    },
    proven=True,
    lines=[
        *("    x = layer(y) + old", "    outputs.append(jnp.tanh(x))", "    y2, z = cell(y + y2)"),
        *("for stage in self.stages:", "    for layer in stage:"),
    ],
)
def rounds(self: Any, x: Tensor) -> tuple[Tensor, ...]:
    """Loops with two states, a list of results, results of the last round, and lists in a list."""
    old, ys = x.sin(), []
    for layer in self.layers:
        x, old = layer(x) + old, x.cos()
        ys.append(x.tanh())
    y = z = x
    for cell in self.cells:
        y, z = cell(x + y)
    for stage in self.stages:
        for layer in stage:
            old = layer(old).tanh()
    return torch.cat(ys, 1), torch.stack([old]), y, z


@SPECIMENS.of(
    normal((3,)),
    lambda: {"layers": several(nn.Linear, 3, 3), "others": several(nn.Linear, 3, 3)},
    proven=True,
    words={"for layer in": 0},
)
def not_rounds(self: Any, x: Tensor) -> Tensor:
    """Equal lines that are not rounds: they read the first result, or each the result of another list."""
    first = x
    for number, layer in enumerate(self.layers):
        x = layer(x) + first
        first = x if number == 0 else first
    ys = [other(first) for other in self.others]
    for y, layer in zip(ys, self.layers, strict=True):
        x = layer(x) + y
    return x


@SPECIMENS.of(
    normal((4, 9)),
    lambda: {"convs": several(nn.Conv1d, 4, 4, 3), "norms": several(nn.BatchNorm1d, 4)},
    lines=["for conv, norm in zip(self.convs, self.norms):"],
)
def zipped(self: Any, x: Tensor) -> tuple[Tensor]:
    """A loop over two lists whose first round reads channels first, and a tuple of one result."""
    for conv, norm in zip(self.convs, self.norms, strict=True):
        x = norm(conv(x)).relu()
    return (x,)


@SPECIMENS.of(
    normal((4, 9)),
    lines=[
        "self.weight = nnx.Param(jnp.zeros(weight_shape, jnp.float32))",
        *(f"self.{name} = {name}" for name in ("window_strides", "factor", "pad_width", "start", "offset")),
    ],
)
def literals() -> nn.Module:
    """Two modules that differ in their literals, for which a class has arguments."""

    def block(size: int) -> nn.Module:
        def forward(self: Any, x: Tensor) -> Tensor:
            x = functional.conv1d(x, self.weight.tanh(), stride=size)
            return functional.pad(x * (size + 3), (size + 4, 1))[..., size + 5 :] + (size + 6)

        return module_of(forward, weight=nn.Parameter(torch.randn(4, 4, size) / 4))

    return module_of(lambda self, x: self.second(self.first(x)), first=block(1), second=block(2))


class Causal(nn.Conv1d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(functional.pad(input, (2 * self.dilation[0], 0)))


class Recurrent(nn.Linear):
    """A layer that runs in its own loop, where it cannot be the base class of a Flax module."""

    def forward(self, input: Tensor) -> Tensor:
        states = [input[:, 0]]
        for t in range(1, 4):
            states.append(torch.tanh(super().forward(input[:, t] + states[-1])))
        return torch.stack(states, dim=1)


class Scaled(nn.Embedding):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 2


def _derived_layers() -> dict[str, nn.Module]:
    convolutions = {"near": Causal(4, 4, 3), "far": Causal(4, 4, 3, dilation=2)}
    heads = nn.ModuleList([nn.Linear(4, 2), nn.Linear(4, 2)])
    return {
        "embedding": Scaled(7, 4, padding_idx=0),
        "recurrent": Recurrent(4, 4),
        "heads": heads,
        **convolutions,
    }


@SPECIMENS.of(
    lambda n: (torch.randint(0, 7, (n, 4)),),
    _derived_layers,
    proven=True,
    words=[
        *("class Scaled(jaxlstm.nnx.Embed):", "class Causal(nnx.Conv):", "class Recurrent(nnx.Module):"),
        'padding="VALID", kernel_dilation=kernel_dilation, rngs=rngs)',
        "[head(self.recurrent(x)) for head in self.heads]",
    ],
)
def derived(self: Any, tokens: Tensor) -> list[Tensor]:
    """Classes that are derived from layers."""
    x = self.near(self.embedding(tokens).mT) + self.far(self.embedding(tokens).mT)
    return [head(self.recurrent(x.mT)) for head in self.heads]


@SPECIMENS.of(normal((3,)), words=["nnx.List([nnx.Linear(3, 3, rngs=rngs)"])
def slices_of_lists() -> nn.Module:
    """torch names their modules by the slice if any module has two names."""

    def forward(self: Any, x: Tensor) -> Tensor:
        for layer in (*self.layers[1:], *self.layers[:2], *self.layers[-1:]):
            x = layer(x).tanh()
        return self.last(x)

    layers = several(nn.Linear, 3, 3)
    return module_of(forward, layers=layers, last=layers[-1])


@SPECIMENS.of(normal((3, 9)), proven=True, words=["self.lstm(x.transpose(1, 0, 2))"])
def transposed() -> nn.Module:
    """An LSTM over the columns of a convolution, beside it: a module transposes its own input."""
    skipped = lambda self, x: self.lstm(x.permute(2, 0, 1))[0].permute(1, 2, 0) + x  # noqa: E731
    return nn.Sequential(nn.Conv1d(3, 3, 1), module_of(skipped, lstm=nn.LSTM(3, 3)), nn.Conv1d(3, 3, 1))
