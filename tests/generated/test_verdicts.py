"""Random models with a special example, and ports: a right one holds, one with a planted fault does not.

The example has positive numbers, a mask of False, integers of a narrow range, and layers with their initial
biases, gains and statistics, so that each fault agrees with torch on the example.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from jaxlstm.check import verify_model
from testing.modules import arrays, module_of
from testing.seeds import seeds

WIDTH = 4


@jax.custom_vjp
def identity(x):
    return x


identity.defvjp(lambda x: (x, None), lambda _, ct: (ct * (1 if ct.shape[0] == 3 else 1.01),))


def norm(x, p, *, gain=True, mean=True):
    y = x - x.mean(-1, keepdims=True)
    y = y / jnp.sqrt((y**2).mean(-1, keepdims=True) + 1e-5)
    return y * (p["weight"] if gain else 1) + (p["bias"] if mean else 0)


def batch_norm(x, p, *, statistics=True):
    mean, variance = (p["running_mean"], p["running_var"]) if statistics else (0, 1)
    return (x - mean) / jnp.sqrt(variance + 1e-5) * p["weight"] + p["bias"]


# A layer or None, torch's function (layer, x, ids, mask), the right port (params, x, ids, mask), and faults.
FIRST: dict[str, tuple[Any, ...]] = {
    "relu": (None, lambda m, x, i, k: x.relu(), lambda p, x, i, k: jax.nn.relu(x), [lambda p, x, i, k: x]),
    "relu6": (
        None,
        lambda m, x, i, k: nn.functional.relu6(x),
        lambda p, x, i, k: jnp.clip(x, 0, 6),
        [lambda p, x, i, k: jax.nn.relu(x)],
    ),
    "double": (
        None,
        lambda m, x, i, k: 2 * x,
        lambda p, x, i, k: 2 * x,
        [
            lambda p, x, i, k: jnp.clip(2 * x, -100, 100),
            lambda p, x, i, k: jnp.abs(2 * x),
            lambda p, x, i, k: jnp.nan_to_num(2 * x),
            lambda p, x, i, k: 2 * x.at[20:].multiply(1.01),
            lambda p, x, i, k: 2 * x.at[:, 9:].set(0.5),
            lambda p, x, i, k: 2 * identity(x),
        ],
    ),
}
LATER: dict[str, tuple[Any, ...]] = {
    "linear": (
        lambda: nn.Linear(WIDTH, WIDTH),
        lambda m, x, i, k: m(x),
        lambda p, x, i, k: x @ p["weight"].T + p["bias"],
        [lambda p, x, i, k: x @ p["weight"].T],
    ),
    "norm": (
        lambda: nn.LayerNorm(WIDTH),
        lambda m, x, i, k: m(x),
        lambda p, x, i, k: norm(x, p),
        [lambda p, x, i, k: norm(x, p, gain=False), lambda p, x, i, k: norm(x, p, mean=False)],
    ),
    "batch norm": (
        lambda: nn.BatchNorm1d(WIDTH),
        lambda m, x, i, k: m(x.mT).mT,
        lambda p, x, i, k: batch_norm(x, p),
        [lambda p, x, i, k: batch_norm(x, p, statistics=False)],
    ),
    "mask": (
        None,
        lambda m, x, i, k: x.masked_fill(k[..., None], 0.5),
        lambda p, x, i, k: jnp.where(k[..., None], 0.5, x),
        [lambda p, x, i, k: x],
    ),
    "ids": (
        lambda: nn.Embedding(20, WIDTH),
        lambda m, x, i, k: x + m(i),
        lambda p, x, i, k: x + p["weight"][i],
        [lambda p, x, i, k: x + p["weight"][i % 5], lambda p, x, i, k: x + p["weight"][jnp.clip(i, 0, 4)]],
    ),
    "counts": (
        None,
        lambda m, x, i, k: x * i[..., None],
        lambda p, x, i, k: x * i[..., None],
        [lambda p, x, i, k: x * jnp.clip(i, 0, 4)[..., None], lambda p, x, i, k: x * (i % 5)[..., None]],
    ),
}


@pytest.mark.parametrize("seed", seeds(fast=3, slow=100))
def test_a_right_port_holds_and_a_fault_is_found(seed):
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    names = [str(rng.choice(list(FIRST))), *map(str, rng.permutation(list(LATER))[: rng.integers(1, 4)])]
    stages = [{**FIRST, **LATER}[name] for name in names]
    parts = {f"part{n}": make() for n, (make, *_) in enumerate(stages) if make}
    for part in parts.values():
        if isinstance(part, nn.Linear):
            nn.init.zeros_(part.bias)

    def forward(m, x, ids, mask):
        for n, (_, theirs, _, _) in enumerate(stages):
            x = theirs(getattr(m, f"part{n}", None), x, ids, mask)
        return x

    theirs = module_of(forward, **parts)
    place = int(rng.integers(len(stages)))
    fault = int(rng.integers(len(stages[place][3])))

    def port(params, x, ids, mask, *, wrong=False):
        for n, (_, _, right, faults) in enumerate(stages):
            start = f"part{n}."
            own = {name.removeprefix(start): a for name, a in params.items() if name.startswith(start)}
            x = (faults[fault] if wrong and n == place else right)(own, x, ids, mask)
        return x

    ids = torch.randint(1, 5, (3, 5))
    args = 0.1 + 0.4 * torch.rand(3, 5, WIDTH), ids, torch.zeros(3, 5, dtype=torch.bool)
    report = verify_model(port, theirs, args, params=arrays(theirs), seconds=0)
    assert report.ok, f"{names}\n{report}"
    report = verify_model(lambda *a: port(*a, wrong=True), theirs, args, params=arrays(theirs), seconds=0)
    assert not report.ok, f"{names}, fault {fault} of {names[place]}\n{report}"
