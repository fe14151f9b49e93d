"""The text of written source: classes, names, loops and sizes. Every file runs and equals its program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from flax import nnx
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import rnn

import jaxlstm
from testing.written import Written, assert_equal, body_of, write, written_program


class Block(nn.Module):
    """A convolution with a norm; some blocks have other strides."""

    def __init__(self, inputs: int, outputs: int, stride: Any = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return functional.leaky_relu(x, 0.1)


class Recogniser(nn.Module):
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(1, 4), Block(4, 6, (2, 1)), Block(6, 6)])
        self.rnn = nn.LSTM(24, 5, bidirectional=True, batch_first=True)
        self.register_buffer("scale", torch.tensor(2.0))
        self.out = nn.Linear(10, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = images / self.scale
        for block in self.blocks:
            x = block(x)
        b, c, h, w = x.shape
        x = x.permute(0, 3, 1, 2).reshape(b, w, c * h)
        y, _ = self.rnn(x)
        return self.out(y).log_softmax(-1)


@pytest.fixture(scope="module")
def recogniser() -> Written:
    torch.manual_seed(0)
    return write(Recogniser(), torch.randn(2, 1, 8, 12))


def test_equal_modules_are_one_class_and_a_loop(recogniser: Written) -> None:
    assert recogniser.text.count("class Block") == 1
    assert body_of(recogniser.text, "Block")[1].strip() == (
        "def __init__(self, in_features, out_features, *, strides=1, rngs: nnx.Rngs):"
    )
    body = "\n".join(body_of(recogniser.text, "Recogniser"))
    assert "Block(4, 6, strides=(2, 1), rngs=rngs)" in body
    assert "for block in self.blocks:\n            x = block(x)\n" in body
    assert not recogniser.remarks


def test_it_equals_the_program_at_other_sizes(recogniser: Written) -> None:
    for sizes in ((2, 12), (3, 17), (1, 5)):
        assert_equal(recogniser, torch.randn(sizes[0], 1, 8, sizes[1]))


def test_channels_are_last_between_one_transposition_at_each_end(recogniser: Written) -> None:
    assert "transpose" not in "\n".join(body_of(recogniser.text, "Block"))
    assert recogniser.text.count(".transpose(") == 2


def test_names_are_those_of_the_code(recogniser: Written) -> None:
    body = "\n".join(body_of(recogniser.text, "Recogniser"))
    assert "def __call__(self, images):" in body
    assert "y, _ = self.rnn(" in body


def test_comments_are_the_lines_of_the_code() -> None:
    text = write(Recogniser(), torch.randn(2, 1, 8, 12), comments=True).text
    assert "# x = self.norm(self.conv(x))" in text
    assert "# y, _ = self.rnn(x)" in text


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.out = nn.Linear(4, 7, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(self.embedding(tokens))


class Twice(nn.Module):
    """One module that is called twice, once for one of its results only."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(3, 3)
        self.mix = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        h, c = self.cell(x)
        h, _ = self.cell(self.mix(h), (h, c))
        return self.mix(h)


class Views(nn.Module):
    """Writes to views of views, whose shapes are free."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = x.clone()
        flat = y.view(-1)
        flat[::2] = 0
        y[..., 1] += 3
        turned = y.transpose(0, 1)
        turned.mul_(2)
        return y, flat, turned


class MaskedInPlace(nn.Module):
    """A mask that is written through a view, between convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv1d(4, 4, 3, padding=1) for _ in range(2)])

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        x.masked_fill_(mask.unsqueeze(1), 0.0)
        for conv in self.convs:
            x = conv(x)
            x.masked_fill_(mask.unsqueeze(1), 0.0)
        counts = (x > 0).long()
        counts.mul_(2).gt_(1)
        return x + counts


class Counter(nn.Module):
    """A buffer that the program changes."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        return x + self.calls


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda x: x.sin(), lambda x: x.cos() + 1, (x,))


class Shared(nn.Module):
    """A module that belongs to its parent but is called by a sibling."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Linear(4, 4)
        self.decoder = Decoder(self.embedding)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.embedding(x))


class Decoder(nn.Module):
    def __init__(self, embedding: nn.Module) -> None:
        super().__init__()
        self.embedding = embedding
        self.scale = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.embedding(x * self.scale).tanh()


class Containers(nn.Module):
    """Parts in a ModuleDict, a ParameterList, nested Sequentials, and a list that is read backwards."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({"a-b": nn.Linear(4, 2), "class": nn.Linear(4, 3)})
        self.gains = nn.ParameterList([nn.Parameter(torch.randn(4)) for _ in range(2)])
        inner = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
        self.body = nn.Sequential(inner, nn.Identity(), nn.Sequential(nn.Linear(4, 4), nn.Sigmoid()))
        self.layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(3)])
        self.softmax = nn.Softmax(-1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.softmax(x)
        x = self.body(x * self.gains[1] + self.gains[0])
        for layer in reversed(self.layers):
            x = layer(x).relu()
        return self.heads["a-b"](x), self.heads["class"](x)


class Hostile(nn.Module):
    """Attributes with names that mean something else in Flax or Python."""

    def __init__(self) -> None:
        super().__init__()
        self.rngs = nn.Linear(3, 3)
        self.jnp = nn.Linear(3, 3)
        self.sow = nn.Linear(3, 3)

    def forward(self, self_: Tensor, nnx: Tensor) -> dict[str, Any]:
        jnp = self.rngs(self_)
        return {"list": [self.jnp(jnp), None], "pair": (self.sow(nnx) + jnp,)}


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        y, weights = self.attention(x, memory, memory)
        return x + y, weights


class Pair(nn.Module):
    """Nested arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        return self.lstm(x, state)


class Computed(nn.Module):
    """Convolutions with computed weights, pools and enlargements, with the channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4, 3))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.tanh(), self.weight[0, :, 0]
        x = functional.conv1d(x, weight, bias, padding=1)
        x = functional.max_pool1d(x, 2) + functional.avg_pool1d(x, 2)
        x = functional.interpolate(functional.pad(x, (1, 1), mode="reflect"), scale_factor=2.0)
        return functional.adaptive_avg_pool1d(functional.conv1d(x, weight, padding="same"), 1)


class OddOrder(nn.Module):
    """Two values whose names trade places, and an old value that is used after its name is taken."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        old = a
        a, b = b * 2, a + 1
        a = a.sin() + b
        return a * old.cos() + b * (a + old)


class Chain(nn.Module):
    """Loops whose first round reads another variable, and one whose rounds use their value twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.ModuleList(nn.Linear(3, 3) for _ in range(3))
        self.second = nn.ModuleList(nn.Linear(3, 3) for _ in range(3))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        x = features
        for layer in self.first:
            x = layer(x).tanh() + x
        y = x
        for layer in self.second:
            y = layer(y)
        return x * features, y


class Zipped(nn.Module):
    """A loop over two lists whose first round reads channels first, and a tuple of one result."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv1d(4, 4, 3) for _ in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm1d(4) for _ in range(3))

    def forward(self, x: Tensor) -> tuple[Tensor]:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = norm(conv(x)).relu()
        return (x,)


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[int], tuple[Any, ...]]]] = {
    "tied": (Tied, lambda n: (torch.randint(0, 7, (n, 3)),)),
    "twice": (Twice, lambda n: (torch.randn(n, 3),)),
    "chain": (Chain, lambda n: (torch.randn(n, 3),)),
    "zipped": (Zipped, lambda n: (torch.randn(n, 4, 9),)),
    "views": (Views, lambda n: (torch.randn(n, 4),)),
    "masked": (MaskedInPlace, lambda n: (torch.randn(n, 5, 4), torch.rand(n, 5) > 0.5)),
    "cond": (Branch, lambda n: (torch.randn(n, 4),)),
    "shared": (Shared, lambda n: (torch.randn(n, 4),)),
    "containers": (Containers, lambda n: (torch.randn(n, 4),)),
    "hostile": (Hostile, lambda n: (torch.randn(n, 3), torch.randn(n, 3))),
    "attention": (Attention, lambda n: (torch.randn(n, 5, 8), torch.randn(n, 6, 8))),
    "pair": (Pair, lambda n: (torch.randn(5, n, 3), (torch.randn(1, n, 4), torch.randn(1, n, 4)))),
    "computed": (Computed, lambda n: (torch.randn(n, 4, 8),)),
    "odd order": (OddOrder, lambda n: (torch.randn(n, 3), torch.randn(n, 3))),
}


LOOPS = {
    "chain": ("x = features", "for layer in self.first:", "for layer in self.second:"),
    "zipped": ("for conv, norm in zip(self.convs, self.norms):",),
}


@pytest.mark.parametrize("name", CASES)
def test_written_source_equals_the_program(name: str) -> None:
    torch.manual_seed(1)
    module, inputs = CASES[name]
    written = write(module(), *inputs(2))
    for size in (2, 3, 1):
        assert_equal(written, *inputs(size))
    assert "nnx.Dict({})" not in written.text  # of a module that only computes
    assert "jaxlstm.programs" not in written.text
    for line in LOOPS.get(name, ()):
        assert written.text.count(f"        {line}\n") == 1


class Packed(nn.Module):
    """A recurrent layer over packed sequences."""

    def __init__(self, kind: Any, sorted: bool = False, first: bool = True, **padding: Any) -> None:
        super().__init__()
        settings: dict[str, Any] = {"num_layers": 2, "bidirectional": True, "batch_first": first}
        self.rnn = kind(3, 4, **settings)
        self.sorted, self.padding = sorted, {"batch_first": first, **padding}

    def forward(self, x: Tensor, lengths: Tensor, *state: Tensor) -> tuple[Tensor, Tensor]:
        first = self.padding["batch_first"]
        packed = rnn.pack_padded_sequence(x, lengths, batch_first=first, enforce_sorted=self.sorted)
        hx = None if not state else state[0] if len(state) == 1 else state
        y, h = self.rnn(packed, hx)
        total = x.shape[1 if first else 0] if "total_length" in self.padding else None
        outputs, lengths = rnn.pad_packed_sequence(y, **{**self.padding, "total_length": total})
        return outputs * 2, (h[0] if isinstance(h, tuple) else h) + lengths[:, None]


class SortedByHand(nn.Module):
    """Sequences that the model itself sorts, and puts in order again."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        lengths, order = lengths.sort(descending=True)
        packed = rnn.pack_padded_sequence(x[:, order].relu(), lengths)
        y, _ = rnn.pad_packed_sequence(self.lstm(packed)[0], padding_value=-1.0)
        return y.tanh()[:, order.argsort()]


def _unsorted(*lengths: int) -> Tensor:
    return torch.tensor(lengths)


_STATE = torch.randn(4, 3, 4)
PACKED: dict[str, tuple[nn.Module, tuple[Tensor, ...], bool]] = {
    "unsorted": (Packed(nn.LSTM), (_unsorted(2, 5, 3),), True),
    "sorted": (Packed(nn.LSTM, True, first=False), (_unsorted(5, 5, 1),), False),
    "state": (Packed(nn.LSTM, total_length=True), (_unsorted(1, 2, 5), _STATE, _STATE.tanh()), True),
    "GRU": (Packed(nn.GRU, padding_value=2.0), (_unsorted(4, 5, 3), _STATE), True),
    "RNN": (Packed(nn.RNN, first=False, padding_value=2.0), (_unsorted(5, 1, 3),), False),
    "by hand": (SortedByHand(), (_unsorted(2, 5, 3),), False),
}


@pytest.mark.parametrize("name", PACKED)
def test_packed_sequences_are_padded_batches_with_lengths(name: str) -> None:
    module, arguments, batch_first = PACKED[name]
    x = torch.randn(3, 5, 3) if batch_first else torch.randn(5, 3, 3)
    written = write(module, x, *arguments)
    for word in ("programs", "sort", "take", "zeros"):
        assert word not in written.text
    assert ("jnp.where(" in written.text) == (name in ("GRU", "RNN", "by hand"))
    assert_equal(written, x, *arguments)
    shorter = (arguments[0] - 1).clamp(min=1), *arguments[1:]
    assert_equal(written, x, *shorter, jit=True)


def test_a_tied_weight_is_read_where_it_is_owned_and_has_all_its_names() -> None:
    module = Tied()
    written = write(module, torch.randint(0, 7, (2, 3)))
    assert "self.embedding.embedding[...]" in written.text
    assert written.text.count("nnx.Param") == 0
    tensors = jaxlstm.state_dict(written.model)
    module.load_state_dict({name: torch.tensor(array) for name, array in tensors.items()}, strict=True)
    assert jaxlstm.load_state_dict(nnx.List([written.model]), nn.ModuleList([module])).complete
    with pytest.raises(jaxlstm.StateDictError, match=r"out\.weight and embedding\.weight differ"):
        jaxlstm.load_state_dict(written.model, {**tensors, "out.weight": tensors["out.weight"] + 1})


def test_a_changed_buffer_keeps_its_value() -> None:
    x = torch.randn(2, 3)
    written = write(Counter(), x)
    _, buffers = written.program.call_with_buffers({}, x.numpy())
    written.model(x.numpy())
    assert written.model.calls[...] == pytest.approx(buffers["calls"])


def test_dead_values_are_not_written() -> None:
    class Dead(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            _ = x.exp()
            return x.sin()

    assert "jnp.exp" not in write(Dead(), torch.randn(2, 3)).text


def test_keyword_arguments() -> None:
    class Scaled(nn.Module):
        def forward(self, x: Tensor, *, scale: Tensor) -> Tensor:
            return x * scale

    x, scale = torch.randn(2, 3), torch.randn(3)
    written = written_program(jaxlstm.from_module(Scaled(), (x,), {"scale": scale}))
    actual = written.model(x.numpy(), scale=scale.numpy())
    assert actual == pytest.approx((x * scale).numpy())
