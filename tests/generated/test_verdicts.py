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


# By name: a layer, the formula of torch with the layer m, the right one in JAX with its arrays p, and faults.
FIRST: dict[str, tuple[Any, str, str, tuple[str, ...]]] = {
    "relu": (None, "x.relu()", "jax.nn.relu(x)", ("x",)),
    "relu6": (None, "nn.functional.relu6(x)", "jnp.clip(x, 0, 6)", ("jax.nn.relu(x)",)),
    "double": (
        None,
        "2 * x",
        "2 * x",
        (
            *("jnp.clip(2 * x, -100, 100)", "jnp.abs(2 * x)", "jnp.nan_to_num(2 * x)"),
            *("2 * x.at[20:].multiply(1.01)", "2 * x.at[:, 9:].set(0.5)", "2 * identity(x)"),
            *("2 * x if x.shape[1] % 2 else 2.001 * x", "2 * x if len(x) <= x.shape[1] else 2.001 * x"),
        ),
    ),
}
LATER: dict[str, tuple[Any, str, str, tuple[str, ...]]] = {
    "linear": (
        lambda: nn.Linear(WIDTH, WIDTH),
        "m(x)",
        'x @ p["weight"].T + p["bias"]',
        ('x @ p["weight"].T',),
    ),
    "norm": (
        lambda: nn.LayerNorm(WIDTH),
        "m(x)",
        "norm(x, p)",
        ("norm(x, p, gain=False)", "norm(x, p, mean=False)"),
    ),
    "batch norm": (
        lambda: nn.BatchNorm1d(WIDTH),
        "m(x.mT).mT",
        "batch_norm(x, p)",
        ("batch_norm(x, p, statistics=False)",),
    ),
    "mask": (None, "x.masked_fill(mask[..., None], 0.5)", "jnp.where(mask[..., None], 0.5, x)", ("x",)),
    "ids": (
        lambda: nn.Embedding(20, WIDTH),
        "x + m(ids)",
        'x + p["weight"][ids]',
        ('x + p["weight"][ids % 5]', 'x + p["weight"][jnp.clip(ids, 0, 4)]'),
    ),
    "counts": (
        None,
        "x * ids[..., None]",
        "x * ids[..., None]",
        ("x * jnp.clip(ids, 0, 4)[..., None]", "x * (ids % 5)[..., None]"),
    ),
}


@pytest.mark.parametrize("seed", seeds(fast=2, slow=100))
def test_a_right_port_holds_and_a_fault_is_found(seed):
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    names = [str(rng.choice(list(FIRST))), *map(str, rng.permutation(list(LATER))[: rng.integers(1, 4)])]
    stages = [{**FIRST, **LATER}[name] for name in names]
    parts = {f"part{n}": make() for n, (make, *_) in enumerate(stages) if make}
    for part in parts.values():
        if isinstance(part, nn.Linear):
            nn.init.zeros_(part.bias)

    def forward(module, x, ids, mask):
        for n, (_, formula, _, _) in enumerate(stages):
            given = {"m": getattr(module, f"part{n}", None), "x": x, "ids": ids, "mask": mask}
            x = eval(formula, globals(), given)
        return x

    theirs = module_of(forward, **parts)
    place = int(rng.integers(len(stages)))
    fault = int(rng.integers(len(stages[place][3])))

    def port(params, x, ids, mask, *, wrong=False):
        for n, (_, _, right, faults) in enumerate(stages):
            start = f"part{n}."
            own = {name.removeprefix(start): a for name, a in params.items() if name.startswith(start)}
            formula = faults[fault] if wrong and n == place else right
            x = eval(formula, globals(), {"p": own, "x": x, "ids": ids, "mask": mask})
        return x

    ids = torch.randint(1, 5, (3, 5))
    args = 0.1 + 0.4 * torch.rand(3, 5, WIDTH), ids, torch.zeros(3, 5, dtype=torch.bool)
    report = verify_model(port, theirs, args, params=arrays(theirs), seconds=0)
    assert report.ok, f"{names}\n{report}"
    report = verify_model(lambda *a: port(*a, wrong=True), theirs, args, params=arrays(theirs), seconds=0)
    assert not report.ok, f"{names}, fault {fault} of {names[place]}\n{report}"
