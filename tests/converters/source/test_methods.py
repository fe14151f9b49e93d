"""Written source has the methods of the user's modules, with their arguments and results."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import jaxlstm
from testing.written import written_program

State = tuple[Tensor, Tensor]


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.cell, self.out = nn.Embedding(9, 4), nn.LSTMCell(4, 4), nn.Linear(4, 9)

    def init(self, memory: Tensor) -> State:
        return memory.mean(1), memory[:, -1]

    def step(self, token: Tensor, state: State) -> tuple[Tensor, State]:
        h, c = self.cell(self.embedding(token), state)
        return self.out(h), (h, c)


class Translator(nn.Module):
    """A decoder without ``forward``, whose step is called in a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.LSTM(4, 4, batch_first=True), Decoder()

    def encode(self, x: Tensor) -> Tensor:
        y, _ = self.encoder(x)
        return torch.tanh(y) * 2

    def forward(self, x: Tensor) -> Tensor:
        memory = self.encode(x)
        state = self.decoder.init(memory)
        token = torch.zeros(x.shape[0], dtype=torch.long)
        logits = []
        for _ in range(4):
            y, state = self.decoder.step(token, state)
            token = y.argmax(-1)
            logits.append(y)
        return torch.stack(logits, 1)


class Cell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inputs, self.hidden = nn.Linear(4, 16), nn.Linear(4, 16)

    def forward(self, x: Tensor, state: State) -> State:
        h, c = state
        i, f, g, o = (self.inputs(x) + self.hidden(h)).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        return h, c


class Layer(nn.Module):
    """A loop that starts with one tensor in both places of its state."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = Cell()

    def forward(self, sequence: Tensor) -> tuple[Tensor, State]:
        zeros = sequence.new_zeros(sequence.shape[0], 4)
        state, outputs = (zeros, zeros), []
        for x in sequence.unbind(1):
            state = self.cell(x, state)
            outputs.append(state[0])
        return torch.stack(outputs, 1), state


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Layer(), Layer()])

    def forward(self, x: Tensor) -> tuple[Tensor, list[State]]:
        states = []
        for layer in self.layers:
            x, state = layer(x)
            states.append(state)
        return x, states


class Methods(nn.Module):
    """Static methods, properties, generators, recursion, stars and writes in place."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.count = nn.Linear(4, 4), 2

    @property
    def scale(self) -> float:
        return 2.0

    @staticmethod
    def activation(x: Tensor) -> Tensor:
        return torch.tanh(x)

    def size(self, x: Tensor) -> int:
        return x.shape[1] + self.count

    def parts(self, x: Tensor) -> Iterator[Tensor]:
        for k in range(2):
            yield self.linear(x) + k

    def repeated(self, x: Tensor, times: int) -> Tensor:
        return self.repeated(self.linear(x), times - 1) if times else x

    def scaled(self, *xs: Tensor, scale: float = 1.0) -> list[Tensor]:
        return [self.linear(x) * scale for x in xs]

    def cleared(self, x: Tensor) -> Tensor:
        x[:, 0] = 0
        return x

    def several(self, x: Tensor) -> Any:
        return self.linear(x), None, 3, {"a": x * 2}

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.linear(x)) * self.scale * self.size(x)
        for part in self.parts(x):
            y = y + part
        a, b = self.scaled(x, y, scale=0.5)
        c, _, n, d = self.several(self.cleared(a.clone()))
        return self.repeated(y, 2) + a - self.cleared(b) + c * n + d["a"]


class Branches(nn.Module):
    """A method called with its arguments exchanged, and in the functions of ``torch.cond``."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def both(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return self.first(x) + y, self.second(y)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        u, v = self.both(x, x * 2)
        p, q = self.both(v, u)
        z = torch.cond(x.sum() > 0, lambda x: self.both(x, x)[0], lambda x: self.both(x, -x)[1], (x,))
        return p + q, z


CASES: dict[type[nn.Module], tuple[tuple[int, ...], list[str]]] = {
    Translator: (
        (2, 5, 4),
        [
            *("def encode(self, x):", "def init(self, memory):", "def step(self, token, state):"),
            *("return self.out(h), (h, c)", "= self.decoder.init(memory)", "memory = self.encode(x)"),
        ],
    ),
    Stack: (
        (2, 5, 4),
        [
            *("def __call__(self, x, state):", "h, c = state", "h, c = self.cell(sequence_t, (h, c))"),
            *("(zeros, zeros)", "return outputs.swapaxes(0, 1), (h, c)", "x, (h2, c2) = self.layers[1](x)"),
        ],
    ),
    Methods: ((2, 4), ["def repeated(self, x):", "a, b = self.scaled(x, y)", "def several(self, x):"]),
    Branches: ((3, 4), ["def both(self, x, y):", "u, v = self.both(x, x * 2)", "p, q = self.both(v, u)"]),
}


@pytest.mark.quick("Translator", "Branches")
@pytest.mark.parametrize("kind", CASES)
def test_methods(kind: type[nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape, expected = CASES[kind]
    model = kind().eval()
    jaxlstm.from_module(model, (torch.randn(shape),)).save(tmp_path / "a.pt2")
    written = written_program(jaxlstm.load_program(tmp_path / "a.pt2"))
    for text in expected:
        assert text in written.text
    for x in (torch.randn(shape), torch.randn(shape[0] + 2, *shape[1:])):
        ours, theirs = jax.tree.leaves(written.model(x.numpy())), jax.tree.leaves(model(x))
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b.detach(), atol=1e-5)


def test_classes_are_as_before() -> None:
    """The methods of the user's classes are replaced during an export only."""
    before = {name: vars(Decoder)[name] for name in ("init", "step", "forward") if name in vars(Decoder)}
    jaxlstm.from_module(Translator().eval(), (torch.randn(2, 5, 4),))
    assert {name: vars(Decoder)[name] for name in before} == before
