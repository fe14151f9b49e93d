"""The text of written source: classes, names, loops and sizes. Every file runs and equals its program."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from flax import nnx
from torch import Tensor, nn
from torch.nn import functional

import jaxlstm
from jaxlstm_converters.source.calls import with_tied_buffers
from testing.modules import module_of
from testing.written import Written, assert_equal, assert_holds, body_of, write, written_program
from tests.converters.source.test_write_source import Block, Reader


@pytest.fixture(scope="module")
def reader() -> Written:
    return write(Reader(), torch.randn(2, 1, 8, 12))


def test_equal_modules_are_one_class_and_a_loop(reader: Written) -> None:
    assert reader.text.count("class Block") == 1
    assert body_of(reader.text, "Block")[1].strip() == (
        "def __init__(self, in_features, *, strides=1, rngs: nnx.Rngs):"
    )
    body = "\n".join(body_of(reader.text, "Reader"))
    assert "Block(4, strides=(2, 1), rngs=rngs)" in body
    assert "for block in self.blocks:\n            x = block(x)\n" in body
    assert "def __call__(self, images):" in body
    assert "y, _ = self.rnn(" in body
    assert not reader.remarks


def test_channels_are_last_after_one_transposition(reader: Written) -> None:
    assert "transpose" not in "\n".join(body_of(reader.text, "Block"))
    assert reader.text.count(".transpose(") == 1


def test_comments_are_the_lines_of_the_code() -> None:
    text = write(Reader(), torch.randn(2, 1, 8, 12), comments=True).text
    assert "# x = images - self.mean" in text
    assert "# y, _ = self.rnn(x.mean(2).transpose(1, 2))" in text


class Causal(nn.Conv1d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(nn.functional.pad(input, (2 * self.dilation[0], 0)))


class Recurrent(nn.Linear):
    """A layer that runs in its own loop, where it cannot be the base class of a Flax module."""

    def forward(self, input: Tensor) -> Tensor:
        states = [input[:, 0]]
        for t in range(1, 4):
            states.append(torch.tanh(super().forward(input[:, t] + states[-1])))
        return torch.stack(states, dim=1)


def derived(self: Any, tokens: Tensor) -> list[Tensor]:
    x = self.near(self.embedding(tokens).mT) + self.far(self.embedding(tokens).mT)
    return [head(self.recurrent(x.mT)) for head in self.heads]


def test_classes_that_are_derived_from_layers() -> None:
    class Scaled(nn.Embedding):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) * 2

    modules = {"near": Causal(4, 4, 3), "far": Causal(4, 4, 3, dilation=2), "recurrent": Recurrent(4, 4)}
    heads = nn.ModuleList([nn.Linear(4, 2), nn.Linear(4, 2)])
    tokens = torch.randint(0, 7, (2, 4))
    written = write(module_of(derived, embedding=Scaled(7, 4, padding_idx=0), heads=heads, **modules), tokens)
    assert_holds(written, tokens)
    for base, class_name in (("Embed", "Scaled"), ("Conv", "Causal"), ("Module", "Recurrent")):
        assert f"class {class_name}(nnx.{base}):\n" in written.text
    assert 'padding="VALID", kernel_dilation=kernel_dilation, rngs=rngs)' in written.text
    assert "[head(self.recurrent(x)) for head in self.heads]" in written.text


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


@pytest.mark.parametrize("name", CASES)
def test_written_source_equals_the_program(name: str) -> None:
    torch.manual_seed(1)
    module, inputs = CASES[name]
    written = write(module(), *inputs(2))
    for size in (3, 1):
        assert_equal(written, *inputs(size), eager=size == 3)
    assert "nnx.Dict({})" not in written.text  # of a module that only computes
    assert "jaxlstm.programs" not in written.text
    for line in LINES.get(name, ()):
        assert written.text.count(f"        {line}\n") == 1


def test_a_tied_weight_is_read_where_it_is_owned_and_has_all_its_names() -> None:
    module = tied()
    written = write(module, torch.randint(0, 7, (2, 3)))
    assert "self.embedding.embedding[...]" in written.text
    assert written.text.count("nnx.Param") == 0
    tensors = jaxlstm.state_dict(written.model)
    module.load_state_dict({name: torch.tensor(array) for name, array in tensors.items()}, strict=True)
    assert jaxlstm.load_state_dict(nnx.List([written.model]), nn.ModuleList([module])).complete
    with pytest.raises(jaxlstm.StateDictError, match=r"out\.weight and embedding\.weight differ"):
        jaxlstm.load_state_dict(written.model, {**tensors, "out.weight": tensors["out.weight"] + 1})


def test_dead_values_are_not_written() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        _ = x.exp()
        return x.sin()

    assert "jnp.exp" not in write(module_of(forward), torch.randn(2, 3)).text


def test_rows_of_computed_lengths() -> None:
    def forward(self: Any, x: Tensor, lengths: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        y[0, : lengths[0]] = x[0, : lengths[0]].flip(0)
        return y

    x, lengths = torch.randn(2, 5), torch.tensor([5, 3])
    model = write(module_of(forward), x, lengths).model
    np.testing.assert_array_equal(model(x.numpy(), lengths.numpy()), forward(None, x, lengths))


def test_keyword_arguments() -> None:
    def forward(self: Any, x: Tensor, *, scale: Tensor) -> Tensor:
        return x * scale

    x, scale = torch.randn(2, 3), torch.randn(3)
    written = written_program(jaxlstm.from_module(module_of(forward), (x,), {"scale": scale}))
    actual = written.model(x.numpy(), scale=scale.numpy())
    assert actual == pytest.approx((x * scale).numpy())


def test_batch_norms_with_shared_weights_keep_their_statistics() -> None:
    """They are two modules, unlike one module with two names."""
    first, second = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    second.weight, second.bias = first.weight, first.bias
    model = module_of(lambda self, x, z: self.first(x) + self.second(z), first=first, second=second)
    program = jaxlstm.from_module(model, (torch.rand(4, 3), torch.rand(4, 3)))
    assert program.tied.keys() == {"second.weight", "second.bias"}
    buffers = {name: np.asarray(buffer) for name, buffer in program.buffers.items()}
    assert with_tied_buffers(program.graph, program.tied, buffers) == program.tied


def test_slices_of_lists() -> None:
    """torch names their modules by the slice if any module has two names."""

    def forward(self: Any, x: Tensor) -> Tensor:
        for layer in (*self.layers[1:], *self.layers[:2], *self.layers[-1:]):
            x = layer(x).tanh()
        return self.last(x)

    layers = several(nn.Linear, 3, 3)
    x = torch.randn(2, 3)
    written = write(module_of(forward, layers=layers, last=layers[-1]), x)
    assert_equal(written, x)
    assert "nnx.List([nnx.Linear(3, 3, rngs=rngs)" in written.text
