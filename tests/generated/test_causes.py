"""The causes of faults in custom cells in Python loops: refused, and most of them named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from jaxlstm.check import verify_model
from testing.modules import arrays, randomized
from testing.seeds import seeds

HIDDEN = 6


class LikeLSTM(nn.Module):
    """An LSTM cell with a normalized cell state."""

    def __init__(self) -> None:
        super().__init__()
        self.x2h, self.h2h = nn.Linear(HIDDEN, 4 * HIDDEN), nn.Linear(HIDDEN, 4 * HIDDEN)
        self.norm, self.drop = nn.LayerNorm(HIDDEN), nn.Dropout(0.2)

    def forward(self, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        i, f, g, o = (self.x2h(x) + self.h2h(h)).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return self.drop(torch.sigmoid(o) * torch.tanh(self.norm(c))), c


class LikeGRU(nn.Module):
    """A GRU cell with a second state that decays."""

    def __init__(self) -> None:
        super().__init__()
        self.x2h, self.h2h = nn.Linear(HIDDEN, 3 * HIDDEN), nn.Linear(HIDDEN, 3 * HIDDEN)
        self.mix = nn.Linear(HIDDEN, HIDDEN)

    def forward(self, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x_r, x_z, x_n = self.x2h(x).chunk(3, -1)
        h_r, h_z, h_n = self.h2h(h).chunk(3, -1)
        r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
        n = torch.tanh(x_n + r * h_n)
        h = (1 - z) * n + z * h
        c = 0.9 * c + self.mix(h)
        return h + torch.relu(c), c


class Coupled(nn.Module):
    """A cell with one gate for both, a peephole, a bound and a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.out = nn.Linear(2 * HIDDEN, 3 * HIDDEN), nn.Linear(HIDDEN, HIDDEN, bias=False)
        self.norm, self.peep = nn.LayerNorm(HIDDEN), nn.Parameter(torch.ones(HIDDEN))

    def forward(self, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        f, u, o = self.w(torch.cat([x, h], -1)).split(HIDDEN, -1)
        f = torch.sigmoid(f + self.peep * c)
        c = torch.clamp(f * c + (1 - f) * nn.functional.silu(self.norm(u)), -3, 3)
        return torch.sigmoid(o) * torch.tanh(self.out(c)) + 0.1 * x, c


class Loop(nn.Module):
    """A cell in a loop over the time steps, and a head."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell, self.head = cell, nn.Linear(HIDDEN, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = c = torch.zeros(x.shape[0], HIDDEN, dtype=x.dtype)
        states = []
        for t in range(x.shape[1]):
            h, c = self.cell(x[:, t], h, c)
            states.append(h)
        return self.head(torch.stack(states, 1))


STEPS = {
    LikeLSTM: """
        i, f, g, o = jnp.split(linear("x2h", x) + linear("h2h", h), 4, -1)
        c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)
        h = sigmoid(o) * jnp.tanh(norm(c, 1e-5))
""",
    LikeGRU: """
        x_r, x_z, x_n = jnp.split(linear("x2h", x), 3, -1)
        h_r, h_z, h_n = jnp.split(linear("h2h", h), 3, -1)
        r, z = sigmoid(x_r + h_r), sigmoid(x_z + h_z)
        n = jnp.tanh(x_n + r * h_n)
        h = (1 - z) * n + z * h
        c = 0.9 * c + linear("mix", h)
        h = h + jax.nn.relu(c)
""",
    Coupled: """
        f, u, o = jnp.split(linear("w", jnp.concatenate([x, h], -1)), 3, -1)
        f = sigmoid(f + params["cell.peep"] * c)
        c = jnp.clip(f * c + (1 - f) * jax.nn.silu(norm(u, 1e-5)), -3, 3)
        h = sigmoid(o) * jnp.tanh(linear("out", c, bias=False)) + 0.1 * x
""",
}
FAULTS: dict[type[nn.Module], tuple[tuple[str, str], ...]] = {
    LikeLSTM: (
        ("i, f, g, o", "f, i, g, o"),
        ("jnp.tanh(g)", "sigmoid(g)"),
        ("sigmoid(f) * c", "c"),
        ("sigmoid(f) * c", "sigmoid(f + 1) * c"),
        ("norm(c, 1e-5)", "norm(c, 1e-3)"),
        ("norm(c, 1e-5)", "c"),
        ('linear("h2h", h)', 'linear("h2h", h, bias=False)'),
        ("h = sigmoid(o) *", "h = 0.8 * sigmoid(o) *"),
        ("h = sigmoid(o) * jnp.tanh(norm(c, 1e-5))", "c = norm(c, 1e-5); h = sigmoid(o) * jnp.tanh(c)"),
    ),
    LikeGRU: (
        ("x_n + r * h_n", 'x_n + jnp.split(linear("h2h", r * h), 3, -1)[2]'),
        ("(1 - z) * n + z * h", "z * n + (1 - z) * h"),
        ("x_n + r * h_n", "x_n + h_n"),
        ("0.9 * c", "0.1 * c"),
        ("0.9 * c", "c"),
        ('linear("mix", h)', 'linear("mix", h, transposed=True)'),
        ("jax.nn.relu(c)", "jax.nn.gelu(c)"),
        ("h_r, h_z, h_n", "h_z, h_r, h_n"),
    ),
    Coupled: (
        ("0.1 * x", "0.1 * h"),
        ('params["cell.peep"] * c', 'params["cell.peep"] * h'),
        ("[x, h]", "[h, x]"),
        (' + params["cell.peep"] * c', ""),
        ("(1 - f) * jax", "jax"),
        ("f, u, o =", "f, o, u ="),
        ("sigmoid(o)", "jax.nn.hard_sigmoid(o)"),
    ),
}


def port(kind: type[nn.Module], fault: tuple[str, str], scanned: bool):
    """Return the port of a loop in JAX, with a fault, as a Python loop or a scan."""
    text = STEPS[kind].replace(*fault)
    assert text != STEPS[kind] or fault == ("", "")
    source = f"""
def model(params, x):
    def linear(name, x, bias=True, transposed=False):
        weight = params[f"cell.{{name}}.weight"]
        return x @ (weight if transposed else weight.T) + (params[f"cell.{{name}}.bias"] if bias else 0)

    def norm(x, eps):
        x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + eps)
        return x * params["cell.norm.weight"] + params["cell.norm.bias"]

    def step(state, x):
        h, c = state
{text}
        return (h, c), h

    state = (jnp.zeros((x.shape[0], {HIDDEN}), x.dtype),) * 2
    if {scanned}:
        y = jax.lax.scan(step, state, x.swapaxes(0, 1))[1].swapaxes(0, 1)
    else:
        states = []
        for t in range(x.shape[1]):
            state, y = step(state, x[:, t])
            states.append(y)
        y = jnp.stack(states, 1)
    return y @ params["head.weight"].T + params["head.bias"]
"""
    scope = {"jax": jax, "jnp": jnp, "sigmoid": jax.nn.sigmoid}
    exec(source, scope)
    return scope["model"]


def check(kind: type[nn.Module], fault: tuple[str, str], steps: int, *, scanned: bool = True, seed: int = 0):
    """Return the report on a port with a fault."""
    torch.manual_seed(seed)
    theirs, x = randomized(Loop(kind())).eval(), torch.randn(3, steps, HIDDEN)
    ours = port(kind, fault, scanned)
    return verify_model(ours, theirs, (x,), params=arrays(theirs), gradients=False, seconds=300)


@pytest.mark.parametrize("seed", seeds(fast=0, slow=60))
def test_planted_fault(seed):
    rng = np.random.default_rng(seed)
    kind = list(FAULTS)[seed % 3]
    assert check(kind, ("", ""), 4, seed=seed).ok
    fault = FAULTS[kind][rng.integers(len(FAULTS[kind]))]
    report = check(kind, fault, int(rng.choice([4, 20])), scanned=bool(rng.integers(2)), seed=seed)
    assert not report.ok
    assert report.diagnosis[0].startswith("matches Loop if"), (fault, report.diagnosis)
