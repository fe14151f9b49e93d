"""Written source of random models: which module a function calls, and where dropout is."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException
from torch._higher_order_ops.map import map as torch_map
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.while_loop import while_loop

from testing.modules import module_of
from testing.seeds import seeds
from testing.written import assert_equal, write

Function = Callable[[Any, Tensor], Tensor]


class Pair(nn.Module):
    """Two equal layers, of which a function may call only one."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).tanh())


def equal_modules() -> dict[str, Any]:
    """Return modules that differ only in their names and values; one has two names."""
    pair, shared = Pair(), nn.Linear(4, 4)
    parts = {"a": nn.Linear(4, 4), "b": nn.Linear(4, 4), "p": pair, "q": Pair(), "shared": shared}
    parts |= {"items": nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4), shared]), "norm": nn.LayerNorm(4)}
    return {
        **parts,
        "alias": pair.a,
        "w": nn.Parameter(torch.randn(4, 4)),
        "v": nn.Parameter(torch.randn(4, 4)),
    }


LEAVES: list[Function] = [
    *(lambda s, x, n=n: getattr(s, n)(x) for n in ("a", "b", "p", "q", "shared", "alias", "norm")),
    *(lambda s, x, n=n: s.items[n](x) for n in range(3)),
    *(lambda s, x, n=n: getattr(s, n).b(x) for n in ("p", "q")),
    lambda s, x: x @ s.w,
    lambda s, x: nn.functional.linear(x, s.v, s.a.bias),
    lambda s, x: x * (x.sum() / x.shape[-1]).sin(),
]


def drawn(rng: np.random.Generator, depth: int) -> Function:
    """Return a random function of (..., 4), which at ``depth`` 1 or more has inner functions."""
    kind, maps = int(rng.integers(7 if depth else 3)), bool(rng.integers(2))
    if kind < 3:
        return LEAVES[rng.integers(len(LEAVES))]
    f, g, around = (drawn(rng, depth - 1) for _ in range(3))
    if kind == 3:
        return lambda s, x: f(s, torch.tanh(g(s, x))) + around(s, x)

    def called(s: Any, x: Tensor) -> Tensor:
        h = around(s, x)
        if kind == 4:
            return torch.cond(x.sum() > 0, lambda y: f(s, y) + h, lambda y: g(s, y).sin(), (x,))
        if kind == 5:
            start = torch.zeros(2), x.sin()
            return while_loop(lambda i, y: i.sum() < 4, lambda i, y: (i + 1, f(s, y).tanh() + h), start)[1]
        if x.ndim < 2:
            return f(s, h)
        if maps:
            return torch_map(lambda row: f(s, row) + s.b(row), h)  # type: ignore[arg-type]
        carry, rows = scan(lambda c, row: (c + f(s, row).tanh(), g(s, c) * row), torch.zeros(4), h)
        return rows + carry

    return called


@pytest.mark.parametrize("seed", seeds(fast=1, slow=100))
def test_functions_call_their_own_modules(seed: int) -> None:
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    steps = [drawn(rng, 2) for _ in range(2)]

    def forward(s: Any, x: Tensor) -> Tensor:
        for step in steps:
            x = step(s, x).tanh()
        return x

    x = torch.randn(3, 4)
    module = module_of(forward, **equal_modules())
    try:
        written = write(module, x)
    except TorchDynamoException:
        with pytest.raises(TorchDynamoException):
            torch.export.export(module, (x,), strict=False)
        pytest.skip("torch itself cannot export the model")
    assert not written.remarks
    assert_equal(written, x)
    assert_equal(written, torch.randn(5, 4))


class Place(nn.Module):
    """A place with dropout, whose rate no other place has."""

    def __init__(self, rate: float, run: Function, **parts: nn.Module) -> None:
        super().__init__()
        self.p, self.run, self.weight = rate, run, nn.Parameter(torch.randn(8, 8))
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


class OwnDropout(nn.Dropout):
    """A subclass of torch's dropout, with another result."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 2


class OwnGRU(nn.GRU):
    """A recurrent layer that drops parts of its own input."""

    def __init__(self, rate: float) -> None:
        super().__init__(8, 8, batch_first=True)
        self.rate = rate

    def forward(self, input: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(drop(input, self.rate, self.training))[0]


def looped(s: Any, x: Tensor) -> Tensor:
    h, rows = torch.zeros_like(x[:, 0]), []
    for t in range(5):
        h = drop(torch.tanh(x[:, t] @ s.weight + h), s.p, s.training)
        rows.append(h)
    return torch.stack(rows, 1)


def place(run: Function, layer: Callable[[float], nn.Module] = nn.Dropout) -> Callable[[float], nn.Module]:
    return lambda p: Place(p, run, layer=layer(p))


drop, attend = nn.functional.dropout, nn.functional.scaled_dot_product_attention
RECURRENT = [lambda p, c=c: c(8, 8, 2, batch_first=True, dropout=p) for c in (nn.LSTM, nn.GRU, nn.RNN)]
LAYERS = [nn.Dropout, OwnDropout, OwnGRU, nn.Dropout1d, nn.AlphaDropout, nn.FeatureAlphaDropout]
PLACES: list[Callable[[float], nn.Module]] = [
    *LAYERS,
    lambda p: nn.TransformerEncoderLayer(8, 2, 8, p, batch_first=True),
    lambda p: nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(p)),
    *(place(lambda s, x: s.layer(x)[0], layer) for layer in RECURRENT),
    *(
        place(
            lambda s, x, w=weights: s.layer(x, x, x, need_weights=w)[0],
            lambda p: nn.MultiheadAttention(8, 2, p, batch_first=True),
        )
        for weights in (True, False)
    ),
    place(lambda s, x: drop(s.layer(drop(x, s.p, s.training)).sin(), s.p, s.training)),
    place(lambda s, x: x @ drop(s.weight, s.p, s.training)),
    place(lambda s, x: nn.functional.dropout2d(x[..., None], s.p, s.training)[..., 0]),
    place(lambda s, x: attend(x, x, x, dropout_p=s.p if s.training else 0.0)),
    place(lambda s, x: (drop(x, s.p) if s.training else x) @ s.weight),
    place(looped),
    place(lambda s, x: torch.cond(x.sum() > 0, lambda h: s.layer(h).sin(), lambda h: h * 2, (x,))),
    place(lambda s, x: torch.cond(x.sum() > 0, lambda h: drop(h, s.p, s.training), lambda h: h * 2, (x,))),
    place(lambda s, x: x + torch.randn_like(x) * s.p if s.training else x),
    place(lambda s, x: x * torch.tensor(2.0 if s.training else 3.0)),
    place(lambda s, x: x * (s.layer.p if s.training else 1.0)),
]


@pytest.mark.parametrize("seed", seeds(fast=1, slow=100))
def test_dropout_is_written_or_listed(seed: int) -> None:
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    rates = [round(float(rate), 4) for rate in rng.uniform(0.1, 0.6, 5)]
    makers = rng.choice(len(PLACES), 5, replace=False)
    places = {
        f"place{i}": PLACES[made](rate) for i, (made, rate) in enumerate(zip(makers, rates, strict=True))
    }
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
