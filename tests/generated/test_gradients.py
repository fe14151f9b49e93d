"""Random expressions at 0, ties, bounds and infinities: torch's gradients wherever they are not large."""

import math
import random
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from testing.graphs import program_of_function, to_numpy
from testing.seeds import seeds

# hardsigmoid is missing: torch multiplies by a sixth in float32.
_OF_ONE = """abs acosh asin atan atanh cos erf exp expm1 log log1p logit neg reciprocal rsqrt sigmoid sign sin
    sinc sinh sqrt square tanh relu round frac nan_to_num"""
_ACTIVATIONS = """relu6 hardtanh hardswish leaky_relu elu selu gelu silu mish softplus logsigmoid softsign
    tanhshrink softshrink hardshrink"""
_SMOOTH = "add sub mul div pow atan2 hypot logaddexp logaddexp2 xlogy"
_OTHERS = "maximum minimum fmax fmin copysign fmod remainder"
_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    **{name: getattr(torch, name) for name in _OF_ONE.split()},
    **{name: getattr(functional, name) for name in _ACTIVATIONS.split()},
    **{f"power {e}": lambda x, e=e: x**e for e in (0, 0.0, 0.5, 1.5, 2, 3.0, -1)},
    **{f"{b} to the power": lambda x, b=b: b**x for b in (0, 2, -2.0)},
    "clamp": lambda x: x.clamp(-1, 2),
    "softmax": lambda x: torch.stack([x, x * 2]).softmax(0)[0],
}
_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    **{name: getattr(torch, name) for name in f"{_SMOOTH} {_OTHERS}".split()},
    "where": lambda a, b: torch.where(a > b, a, b),
    "huber": lambda a, b: functional.huber_loss(a, b, reduction="none"),
    "a norm": lambda a, b: torch.stack([a, b]).norm(dim=0),
    "a norm of one number": lambda a, b: (a - b)[None].norm(p=3, dim=0),
    "amax": lambda a, b: torch.stack([a, b]).amax(0),
    "std": lambda a, b: torch.stack([a, b]).std(0),
    "prod": lambda a, b: torch.stack([a, b, a]).prod(0),
    "cummax": lambda a, b: torch.stack([a, b, a]).cummax(0)[0].sum(0),
    "sort": lambda a, b: torch.stack([a, b]).sort(stable=True, dim=0)[0][0],
}
_EDGES = (0.0, -0.0, 1.0, -1.0, 2.0, 0.5, 3.0, 6.0, -3.0, 20.0)
_TINY = (1e-30, -1e-9)
_PAIRS = torch.tensor([(a, b) for a in _EDGES for b in _EDGES], dtype=torch.float64).T


def _require_torchs(arguments: Tensor, *steps: Callable[..., Tensor]) -> None:
    """Compare gradients of ``steps[-1](...(steps[0](x, y), y)..., y)``, where torch has no large one."""

    def values(*leaves: Tensor) -> list[Tensor]:
        found = [steps[0](*leaves)]
        for step in steps[1:]:
            found.append(step(found[-1], *leaves[1:]))
        return found

    leaves = [argument.clone().requires_grad_() for argument in arguments]
    found = values(*leaves)
    if not found[-1].requires_grad:
        return
    theirs = torch.autograd.grad(found[-1].sum(), [*leaves, *found[:-1]], allow_unused=True)
    theirs = [torch.zeros_like(leaves[0]) if gradient is None else gradient + 0 for gradient in theirs]
    # Large numbers would multiply rounding errors; infinity and NaN are not below the limit.
    is_small = (torch.stack([*theirs, *found]).abs() < 1e6).all(0).numpy()
    # Next to a kink, a rounding error decides; torch's gradient of sinc next to 0 is one, and so is its -0.0
    # for a small negative number.
    halves = 2 * torch.stack(found)
    near = (halves - halves.round()).abs()
    is_rounded = ((near > 0) & (near < 1e-6)) | ((halves == 0) & halves.signbit())
    is_small &= ~is_rounded.any(0).numpy()
    program = program_of_function(lambda *args: (values(*args)[-1],), [*arguments])
    with jax.enable_x64(True):
        run = jax.grad(lambda given: program({}, *given)[0].sum())
        ours = run([jnp.asarray(argument.numpy()) for argument in arguments])
    for own, other in zip(ours, map(to_numpy, theirs), strict=False):
        np.testing.assert_allclose(np.asarray(own)[is_small], other[is_small], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (k % 3 > 0))
        for k, name in enumerate([*_UNARY, *_BINARY])
    ],
)
def test_gradients_of_an_operator(name: str) -> None:
    if name in _UNARY:
        _require_torchs(
            torch.tensor([[*_EDGES, *_TINY, math.inf, -math.inf]], dtype=torch.float64), _UNARY[name]
        )
    else:
        _require_torchs(_PAIRS, _BINARY[name])


@pytest.mark.parametrize("seed", seeds(fast=4, slow=1000))
def test_gradients_of_an_expression(seed: int) -> None:
    chosen = random.Random(seed)
    first, third = (_UNARY[chosen.choice([*_UNARY])] for _ in range(2))
    # Others depend on rounding errors.
    second, last = (_BINARY[chosen.choice(_SMOOTH.split())] for _ in range(2))
    _require_torchs(
        _PAIRS, lambda x, y: first(x) + 0 * y, lambda x, y: second(x, y), lambda x, y: third(x), last
    )
