"""Written source of random models: which module a function calls, and where dropout is."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._higher_order_ops.map import map as torch_map
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.while_loop import while_loop
from torch.nn import functional

from testing.modules import module_of
from testing.seeds import seeds
from testing.written import assert_equal, write

Function = Callable[[Any, Tensor], Tensor]

# Functions of a tensor x of shape (4,) or (rows, 4); f and g are others, and h is the result of one.
LEAVES = """
s.a(x); s.b(x); s.p(x); s.q(x); s.p.b(x); s.q.b(x); s.items[0](x); s.items[1](x); s.items[2](x); s.alias(x)
s.shared(x); s.norm(x); x @ s.w; F.linear(x, s.v, s.a.bias); x * (x.sum() / x.shape[-1]).sin()
"""
FORMS = """
f(s, torch.tanh(g(s, x))) + h
torch.cond(x.sum() > 0, lambda y: f(s, y) + h, lambda y: g(s, y).sin(), (x,))
while_loop(lambda i, y: i.sum() < 4, lambda i, y: (i + 1, f(s, y).tanh() + h), (torch.zeros(2), x.sin()))[1]
"""
FORMS_OF_ROWS = """
torch_map(lambda row: f(s, row) + s.b(row), h)
torch.add(*scan(lambda c, row: (c + f(s, row).tanh(), g(s, c) * row), torch.zeros(4), h))
"""
SCOPE = {"F": functional, "nn": nn, "torch": torch}
SCOPE |= {"scan": scan, "torch_map": torch_map, "while_loop": while_loop}


def split(texts: str) -> list[str]:
    return re.split(r"; |\n", texts.strip())


class Pair(nn.Module):
    """Two equal layers, of which functions may call one alone."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).tanh())


def equal_modules() -> dict[str, Any]:
    """Return modules that differ only in their names and values; two have two names."""
    parts: dict[str, Any] = {name: nn.Linear(4, 4) for name in ("a", "b", "shared")}
    parts |= {"p": Pair(), "q": Pair(), "norm": nn.LayerNorm(4)}
    parts["items"] = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4), parts["shared"]])
    return {**parts, "alias": parts["p"].a, **{n: nn.Parameter(torch.randn(4, 4)) for n in "wv"}}


def drawn(rng: np.random.Generator, depth: int, has_rows: bool) -> Function:
    """Return a random function of x, which at ``depth`` 1 or more has functions of its own."""
    if not depth or rng.random() < 0.4:
        return eval(f"lambda s, x: {rng.choice(split(LEAVES))}", SCOPE)
    form = rng.choice(split(FORMS) + split(FORMS_OF_ROWS) * has_rows)
    is_of_rows = form in split(FORMS_OF_ROWS)
    f, g = (drawn(rng, depth - 1, has_rows and not is_of_rows) for _ in range(2))
    around, run = drawn(rng, depth - 1, has_rows), eval(f"lambda s, x, f, g, h: {form}", SCOPE)
    return lambda s, x: run(s, x, f, g, around(s, x))


@pytest.mark.parametrize("seed", seeds(fast=2, slow=100))
def test_functions_call_their_own_modules(seed: int) -> None:
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    first, second = (drawn(rng, 2, has_rows=True) for _ in range(2))
    x = torch.randn(3, 4)
    written = write(module_of(lambda s, x: second(s, first(s, x).tanh()).tanh(), **equal_modules()), x)
    assert not written.remarks
    assert_equal(written, x)
    assert_equal(written, torch.randn(5, 4))


class OwnDropout(nn.Dropout):
    """A subclass of torch's dropout, with another result."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 2


def looped(s: Any, x: Tensor) -> Tensor:
    h, rows = torch.zeros_like(x[:, 0]), []
    for t in range(5):
        h = functional.dropout(torch.tanh(x[:, t] @ s.weight + h), s.p, s.training)
        rows.append(h)
    return torch.stack(rows, 1)


LAYERS = """
nn.Dropout(p); OwnDropout(p); nn.Dropout1d(p); nn.AlphaDropout(p); nn.FeatureAlphaDropout(p)
nn.TransformerEncoderLayer(8, 2, 8, p, batch_first=True)
nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(p))
"""
RUNS = """
F.dropout(s.layer(F.dropout(x, s.p, s.training)).sin(), s.p, s.training)
x @ F.dropout(s.weight, s.p, s.training)
F.dropout2d(x[..., None], s.p, s.training)[..., 0]
F.scaled_dot_product_attention(x, x, x, dropout_p=s.p if s.training else 0.0)
(F.dropout(x, s.p) if s.training else x) @ s.weight
looped(s, x)
x + torch.randn_like(x) * s.p if s.training else x
x * torch.tensor(2.0 if s.training else 3.0)
x * (s.layer.p if s.training else 1.0)
"""
PLACES = [
    *((layer, "s.layer(x)") for layer in split(LAYERS)),
    *((f"nn.{c}(8, 8, 2, batch_first=True, dropout=p)", "s.layer(x)[0]") for c in ("LSTM", "GRU", "RNN")),
    *(
        ("nn.MultiheadAttention(8, 2, p, batch_first=True)", f"s.layer(x, x, x, need_weights={weights})[0]")
        for weights in (True, False)
    ),
    *(("nn.Dropout(p)", run) for run in split(RUNS)),
]


class Place(nn.Module):
    """A place with dropout, whose rate no other place has; ``layer`` and ``run`` are code."""

    def __init__(self, rate: float, layer: str, run: str) -> None:
        super().__init__()
        self.p, self.weight = rate, nn.Parameter(torch.randn(8, 8))
        self.layer = eval(layer, {**SCOPE, "OwnDropout": OwnDropout, "p": rate})
        self.run = eval(f"lambda s, x: {run}", {**SCOPE, "looped": looped})

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


@pytest.mark.parametrize("seed", seeds(fast=2, slow=100))
def test_dropout_is_written_or_listed(seed: int) -> None:
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    rates = [round(float(rate), 4) for rate in rng.uniform(0.1, 0.6, 5)]
    chosen = rng.choice(len(PLACES), 5, replace=False)
    places = {f"place{i}": Place(rates[i], *PLACES[k]) for i, k in enumerate(chosen)}
    order = rng.permutation([*places, "place0"])

    def forward(s: Any, x: Tensor) -> Tensor:
        for name in order:
            x = getattr(s, name)(x) + 0.1
        return x

    x = torch.randn(3, 5, 8)
    written = write(module_of(forward, **places), x)
    assert_equal(written, x)
    for name, rate in zip(places, rates, strict=True):
        is_written = str(rate) in written.text
        assert is_written or name in " ".join(written.remarks), (name, rate, written.text, written.remarks)
