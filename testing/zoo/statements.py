"""Loops, sizes, writes and gradients that stop, as statements of written source."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from testing.modules import module_of
from testing.zoo.specimen import Specimens, normal

SPECIMENS = Specimens(example=(2,), proven=True)


@SPECIMENS.of(
    normal((4, 3)),
    lambda: {"cell": nn.LSTMCell(3, 4)},
    words={"self.cell(": 2, "jax.lax.scan(": 2, ".at[:, 1:].set(outputs.swapaxes(0, 1))": 1},
)
def filled(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Loops that fill the rows of a tensor after the first, and all rows of another one backwards."""
    h = c = torch.zeros(x.shape[0], 4)
    outputs, reverse = torch.ones(x.shape[0], 4, 4), torch.empty(4, x.shape[0], 4)
    for t in range(1, 4):
        h, c = self.cell(x[:, t], (h, c))
        outputs[:, t] = h
    for t in reversed(range(4)):
        h, c = self.cell(x[:, t], (h, c))
        reverse[t, :, :] = c
    return outputs, reverse


def flat(x: Tensor) -> Tensor:
    return x.view(x.shape[0] * x.shape[1])


@SPECIMENS.of(normal((3, 8)), lambda: {"out": nn.Linear(6, 3)})
def framed(self: Any, x: Tensor) -> Tensor:
    """Sizes of a fixed axis, and of a value that has no name; integers that become floats."""
    _, channels, length = x.shape
    y = self.out((x + torch.ones(3, 1)).mT.reshape(-1, channels * 2)) * torch.rsqrt(torch.tensor(2))
    return flat(functional.pad(y, (0, math.ceil(length / 4) * 4)))


class Decoder(nn.Module):
    """A step that returns its state second."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(3, 3)

    def decoded(self, x: Tensor) -> Tensor:
        return self.out(x).tanh()

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        state = self.decoded(x + h)
        output = state.exp()
        return output, state


@SPECIMENS.of(
    normal((4, 3)),
    lambda: {"decoder": Decoder()},
    proven=False,
    lines=["state = self.decoded(x + h)", "return jnp.tanh(self.out(x))"],
    words=["self.decoder(", "output, h = self.decoder(x_t, h)"],
)
def greedy(self: Any, x: Tensor) -> Tensor:
    """A loop over a decoder, whose state after the last step is not used; the step is whole."""
    h, outputs = x[:, 0], []
    for t in range(4):
        output, h = self.decoder(x[:, t], h)
        outputs.append(output)
    return torch.stack(outputs, dim=1)


class Even(nn.Module):
    """Pad to an even length, as causal convolutions of audio codecs do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 3, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[2]
        frames = math.ceil(length / 2)
        return self.conv(functional.pad(x, (0, frames * 2 - length)))


@SPECIMENS.of(normal((3, 9)), words={"math.ceil(length / 2)": 1, "nnx.relu": 1})
def own_sizes() -> nn.Module:
    """torch computes a size once, in the first module that needs it; each module writes its own."""
    return nn.Sequential(Even(), nn.ReLU(), Even())


@SPECIMENS.of(normal((5, 3)), lambda: {"out": nn.Linear(3, 3)}, proven=False, words=["def step(_, x_t):\n"])
def stateless_loop(self: Any, x: Tensor) -> Tensor:
    return torch.stack([self.out(x[:, t]).tanh() for t in range(x.shape[1])], 1)


@SPECIMENS.of(normal((20,)), proven=False)
def halved_twice() -> nn.Module:
    """A size of a module without tensors, which its caller writes."""
    half = module_of(lambda self, x: x[:, : x.shape[1] // 2])
    return module_of(lambda self, x: self.halved(self.halved(x)), halved=half)


@SPECIMENS.of(
    normal((3,)),
    lambda: {"out": nn.Linear(3, 4), "average": torch.ones(4)},
    words={"stop_gradient": 1, "jaxlstm.programs": 0},
)
def averaged(self: Any, x: Tensor) -> Tensor:
    """A moving average in a buffer without gradient, and a second write into one half of it."""
    y = self.out(x)
    with torch.no_grad():
        self.average.mul_(0.9).add_(y.mean(0), alpha=0.1)
        self.average[2:] = self.average[2:] + y[:, 2:].max(0).values
    return y - self.average


def _layers() -> dict[str, Any]:
    layers: dict[str, Any] = {name: nn.Linear(4, 4) for name in ("first", "second", "third")}
    for name, size in (("blocks", 4), ("heads", 2)):
        layers[name] = nn.ModuleList([nn.Linear(4, size) for _ in range(2)])
    recurrent, chain = nn.LSTM(4, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 4))
    return {**layers, "recurrent": recurrent, "chain": chain, "average": torch.ones(4)}


@SPECIMENS.of(normal((4,)), _layers)
def frozen(self: Any, x: Tensor) -> Tensor:
    """Layers without a gradient, a write through a detached buffer, and a list that is made before a loop."""
    h = self.first(x)
    with torch.no_grad():
        y, _ = self.recurrent(self.second(h.sin())[None])
        y = self.chain(y[0])
    z = self.third(h)
    self.average.detach().mul_(0.9).add_(z.mean(0) * 0.1)
    a, b = self.heads[0](x), self.heads[1](x)
    for block in self.blocks:
        x = block(x) * torch.cat([a, b], 1)
    return x + y + z * self.average


@SPECIMENS.of(lambda n: (torch.randn(n, n),), example=(4,), words=["sigmoid"])
def viewed(_: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Writes through views, after a write to their base, which runs once, and to a detached tensor."""
    y = x * 2
    flat = y.view(-1)
    y.sigmoid_()
    flat.neg_()
    z = y.detach()
    z[0] = x[1]
    y.diagonal().mul_(x[0])
    return y, z
