"""No false alarms: random right formulas in JAX hold, and programs equal their own modules, casts and all."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.scipy import special
from torch import nn
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.while_loop import while_loop
from torch.nn import functional

import jaxlstm
from jaxlstm.check import verify_model
from testing.modules import arrays, module_of
from testing.seeds import seeds

Step = tuple[Callable[[Any], Any], Callable[[Any], Any]]
FORMULAS: tuple[Step, ...] = (
    (functional.hardsigmoid, jax.nn.hard_sigmoid),
    (functional.hardswish, jax.nn.hard_swish),
    (torch.erf, special.erf),
    (lambda x: functional.softplus(x * 30), lambda x: jax.nn.softplus(x * 30)),
    (torch.atan, jnp.arctan),
    (lambda x: torch.sqrt(torch.relu(x)), lambda x: jnp.sqrt(jax.nn.relu(x))),
    (lambda x: x.topk(4).values, lambda x: jax.lax.top_k(x, 4)[0]),
    (lambda x: functional.glu(x, 0), lambda x: jax.nn.glu(x, 0)),
    (lambda x: x - x.logsumexp(-1, keepdim=True), lambda x: x - special.logsumexp(x, -1, keepdims=True)),
)
"""Formulas that torch and XLA round differently."""


def _rms(x: torch.Tensor) -> torch.Tensor:
    wide = x.to(torch.float32)
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


def _with_own_dtype(x: torch.Tensor) -> torch.Tensor:
    if x.dtype != torch.float32 or x.float().dtype != torch.float32:
        raise TypeError(f"expected float32, got {x.dtype}")
    return x


CASTS: tuple[Step, ...] = (
    (
        lambda x: torch.softmax(x, -1, dtype=torch.float32).type_as(x),
        lambda x: jax.nn.softmax(x.astype(jnp.float32)).astype(x.dtype),
    ),
    (_rms, lambda x: x * jax.lax.rsqrt((x**2).mean(-1, keepdims=True) + 1e-6)),
    (
        lambda x: x.float() * torch.tensor([0.1, 0.7, 1.3, 0.2]).repeat(x.shape[-1] // 4),
        lambda x: x * jnp.tile(jnp.array([0.1, 0.7, 1.3, 0.2]), x.shape[-1] // 4),
    ),
    (
        lambda x: x + functional.one_hot(x.argmax(-1), x.shape[-1]).float(),
        lambda x: x + jax.nn.one_hot(x.argmax(-1), x.shape[-1]),
    ),
    (
        lambda x: x * torch.linspace(0, 1, x.shape[-1], dtype=torch.float32),
        lambda x: x * jnp.linspace(0, 1, x.shape[-1]),
    ),
    (
        lambda x: torch.log(torch.relu(x) + torch.finfo(x.dtype).eps),
        lambda x: jnp.log(jax.nn.relu(x) + jnp.finfo(x.dtype).eps),
    ),
    (_with_own_dtype, lambda x: x),
)
"""Formulas with float32 in the code."""


def random_steps(seed: int) -> list[Step]:
    """Return two formulas and a cast, in random order."""
    rng = np.random.default_rng(seed)
    chosen = [FORMULAS[k] for k in rng.permutation(len(FORMULAS))[:2]] + [CASTS[seed % len(CASTS)]]
    return [chosen[k] for k in rng.permutation(3)]


@pytest.mark.parametrize("seed", seeds(fast=2, slow=100))
def test_right_formulas_hold(seed):
    torch.manual_seed(seed)
    steps, theirs = random_steps(seed), nn.Linear(8, 8)

    def forward(m, x):
        for step, _ in steps:
            x = step(m.layer(x) if x.shape[-1] == 8 else x)
        return x

    def ours(params, x):
        for _, step in steps:
            x = step(x @ params["weight"].T + params["bias"] if x.shape[-1] == 8 else x)
        return x

    module, x = module_of(forward, layer=theirs), torch.randn(32, 8)
    report = verify_model(ours, module, (x,), params=arrays(theirs))
    assert report.ok, str(report)
    program = jaxlstm.from_module(module, (x,))
    report = verify_model(program, module, (x,))
    assert report.ok, str(report)
    assert not any(item.id == "float64" for item in report.items), "a program computes in float64 throughout"


@pytest.mark.usefixtures("optimized")
def test_extrema_of_rounded_numbers():
    """XLA may compute an element twice: for the extremum, and for its comparison with the extremum."""

    def ranges(largest, x, scale, shift):
        y = x.reshape(-1, 4, 3, 3) / 3 * scale[..., None] + shift[..., None]
        return y, largest(y) - 0.5 * largest(-y)

    args = torch.randn(2, 4, 9), torch.rand(2, 1, 3) + 0.1, torch.randn(2, 1, 3)
    theirs = module_of(lambda _, *args: ranges(lambda y: y.amax(-1), *args))
    report = verify_model(lambda *args: ranges(lambda y: y.max(-1), *args), theirs, args, seconds=0)
    assert report.ok, str(report)


def test_a_function_that_xla_computes_less_precisely():
    """XLA's lgamma is off by many ulp near its roots."""
    theirs, x = module_of(lambda _, x: torch.lgamma(x.abs() + 1).sum(1)), torch.randn(32, 8)
    report = verify_model(lambda x: special.gammaln(jnp.abs(x) + 1).sum(1), theirs, (x,))
    assert report.ok, str(report)


@pytest.mark.parametrize(
    ("theirs", "ours", "right"),
    [
        (lambda _, x: x.topk(2).values, lambda x: jax.lax.top_k(x, 2)[0], True),
        (lambda _, x: x.reshape(-1, 2).max(1).values, lambda x: jnp.maximum(*x.reshape(-1, 2).T), True),
        (lambda _, x: x.relu(), lambda x: jnp.where(x > 0, x, 0.01 * x), False),
        (lambda _, x: torch.where(x == 1, x, x.detach()), lambda x: x, False),
    ],
)
def test_equal_numbers_share_a_gradient_in_any_way(theirs, ours, right):
    """At a kink and at a decision, there is one right gradient."""
    x = (torch.arange(24).reshape(6, 4) % 3 == 0).float()
    report = verify_model(ours, module_of(theirs), (x,), seconds=0)
    assert report.ok == right, str(report)


@pytest.mark.parametrize("fault", [0, 1e-3])
@pytest.mark.parametrize("seed", seeds(fast=1, slow=20))
def test_two_equal_numbers_among_many(seed, fault):
    """The gradient of a maximum may go to either of them; elsewhere, and at other values, it is known."""
    torch.manual_seed(seed)
    x = torch.randn(8, 4)
    x[seed % 5, 2] = x[6, 2] = x.max() + 1

    def ours(x):
        return x.max(0) + fault * (x - jax.lax.stop_gradient(x))[0]

    report = verify_model(ours, module_of(lambda _, x: x.max(0).values), (x,), seconds=0)
    assert report.ok == (not fault), str(report)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_integers_become_floats(dtype):
    """The truth of a module with casts only is float64 too."""
    forward = module_of(
        lambda m, i: (m.layer(i.float()), i / 255, (i - i.flip(0)).float().mean(-1)), layer=nn.Linear(6, 3)
    )
    weights, i = arrays(forward.get_submodule("layer")), torch.randint(0, 256, (40, 6), dtype=dtype)

    def ours(params, i):
        x = i.astype(jnp.float32)
        return x @ params["weight"].T + params["bias"], x / 255, (i - i[::-1]).astype(jnp.float32).mean(-1)

    assert verify_model(ours, forward, (i,), params=weights).ok
    assert not verify_model(
        lambda p, i: ours({**p, "bias": p["bias"] * 1.001}, i), forward, (i,), params=weights
    ).ok
    program = jaxlstm.from_module(forward, (i,))
    report = verify_model(program, forward, (i,))
    assert report.ok, str(report)


def test_the_truth_follows_dtypes_everywhere():
    """Tensors outside of the module, factories, writes in place, a state of zeros, and control flow."""
    outside = torch.randn(8, 8)

    def forward(m, x):
        state = torch.zeros(1, x.shape[0], 5, dtype=torch.float32)
        y = torch.zeros(x.shape, dtype=torch.float32)
        y[:, ::2] = (x @ outside)[:, ::2]
        y.add_(torch.cond(x.sum() > 0, lambda x: x * 2, lambda x: x * 3, (x,)))
        return m.lstm(y[:, None], (state, state))[0].half().float()

    module = module_of(forward, lstm=nn.LSTM(8, 5, batch_first=True))
    x = torch.randn(6, 8)
    report = verify_model(jaxlstm.from_module(module, (x,)), module, (x,))
    assert report.ok, str(report)


def _loops(m, x):
    x = torch.cond(x.sum() > 0, lambda x: m.layer(x.float()), lambda x: m.layer(x).float() * 3, (x,))

    def step(carry, x):
        carry = torch.tanh(m.layer(carry.to(torch.float32)) + x.float())
        return carry, carry * 2

    last, rows = scan(step, torch.zeros(8), x)
    start = torch.zeros(()), last
    return rows, while_loop(lambda k, y: k < 3, lambda k, y: (k + 1, m.layer(y.float())), start)


def _loops_in_jax(params, x):
    def layer(x):
        return x @ params["weight"].T + params["bias"]

    def step(carry, x):
        carry = jnp.tanh(layer(carry) + x)
        return carry, carry * 2

    last, rows = jax.lax.scan(step, jnp.zeros(8), jnp.where(x.sum() > 0, layer(x), layer(x) * 3))
    return rows, (jnp.full((), 3.0), layer(layer(layer(last))))


@pytest.mark.parametrize("factor", [1, 1.0001])
def test_casts_inside_of_control_flow(factor):
    layer, x = nn.Linear(8, 8), torch.randn(6, 8)
    params = {**arrays(layer), "bias": arrays(layer)["bias"] * factor}
    module = module_of(_loops, layer=layer)
    report = verify_model(_loops_in_jax, module, (x,), params=params, seconds=0)
    assert report.ok == (factor == 1), str(report)


@pytest.mark.parametrize("factor", [1, 1.0001])
def test_a_normalization_that_is_folded_in_float32(factor):
    layer, norm, x = nn.Linear(8, 8), nn.BatchNorm1d(8).eval(), torch.randn(6, 8)
    mean, variance = (buffer.uniform_(0.5, 2) for buffer in list(norm.buffers())[:2])
    gain = (norm.weight / (variance + norm.eps).sqrt() * factor).detach()
    params = {
        "w": (layer.weight.T.detach() * gain).numpy(),
        "b": ((layer.bias.detach() - mean) * gain).numpy(),
    }
    module = nn.Sequential(layer, norm).eval()
    report = verify_model(lambda p, x: x @ p["w"] + p["b"], module, (x,), params=params, seconds=0)
    assert report.ok == (factor == 1), str(report)
