"""Graphs with the channels last: the same results and gradients, and few permutations."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import pytest
import torch
from torch.nn import functional

import jaxlstm
from jaxlstm.programs.program import Program
from testing.gradients import require_equal
from testing.graphs import program_of_function
from testing.modules import module_of
from testing.seeds import seeds

Tensor = torch.Tensor
W, D, S = torch.randn(6, 4, 3, 3), torch.randn(4, 1, 3, 3), torch.randn(3, 4, 3)
C = torch.rand(4, 1, 1)


def _conv(x: Tensor, weight: Tensor = W[:4]) -> Tensor:
    return torch.conv2d(x, weight, padding=1)


def _in_place(x: Tensor) -> Tensor:
    y = _conv(x)
    y.relu_()
    y += x
    return _conv(y.mul_(0.5)) + y


def _written(x: Tensor) -> Tensor:
    y = _conv(x)
    z = y.permute(0, 2, 3, 1)
    y[:, 0] = 1.0
    return _conv(y) + z.sum()


def _squeeze_excite(x: Tensor) -> Tensor:
    y = functional.hardswish(_conv(x))
    s = functional.adaptive_avg_pool2d(y, 1)
    s = torch.conv2d(s, W[:4, :, :1, :1]).relu()
    return _conv(y * functional.hardsigmoid(s))


def _convnext(x: Tensor) -> Tensor:
    y = torch.conv2d(x, D, padding=1, groups=4).permute(0, 2, 3, 1)
    y = functional.gelu(functional.layer_norm(y, (4,)) @ C.reshape(4, 1).expand(4, 4))
    return _conv(x + y.movedim(-1, 1))


# name -> (function of images (2, 4, 6, 5), permutations, except if only axes of size 1 move)
FUNCTIONS: dict[str, tuple[Callable[[Tensor], Any], int]] = {
    "a chain": (lambda x: functional.max_pool2d(_conv(x).relu(), 2), 2),
    "a residual": (lambda x: _conv(_conv(x).relu() + x), 2),
    "images and a permutation of them": (lambda x: (y := _conv(x), y.permute(3, 0, 1, 2)), 3),
    "no convolution": (lambda x: functional.max_pool2d(x.relu(), 2), 0),
    "the model's own permutations": (lambda x: _conv(x.permute(0, 2, 3, 1).permute(0, 3, 1, 2)), 2),
    "transposed back": (lambda x: _conv(_conv(x).transpose(1, 2).relu().transpose(2, 1)), 2),
    "rows": (lambda x: torch.cat([_conv(x)[:, :, 1:], _conv(x).flip(3)[..., :1, :]], 2), 2),
    "one row of height 1": (
        lambda x: _conv(functional.avg_pool2d(_conv(x), (6, 1)).squeeze(2).unsqueeze(2)),
        2,
    ),
    "padding": (
        lambda x: _conv(functional.pad(functional.pad(_conv(x), (1, 2, 0, 1), mode="reflect"), (-1, 0))),
        2,
    ),
    "flattened images": (lambda x: (_conv(x).flatten(2).transpose(1, 2), _conv(x).view(2, 4, 30)), 2),
    "upsampling": (
        lambda x: functional.interpolate(
            functional.interpolate(_conv(x), (9, 3), mode="bilinear"), scale_factor=2
        ),
        2,
    ),
    "norms": (
        lambda x: functional.instance_norm(
            functional.group_norm(functional.batch_norm(_conv(x), C[:, 0, 0], C[:, 0, 0]), 2, C[:, 0, 0])
        ),
        2,
    ),
    "transposed convolution": (
        lambda x: functional.conv_transpose2d(_conv(x), W[:4], stride=2, output_padding=1),
        2,
    ),
    "adaptive pooling": (
        lambda x: (
            functional.adaptive_avg_pool2d(_conv(x), (2, 3)) + functional.adaptive_max_pool2d(x, (2, 3))
        ),
        3,
    ),
    "other ranks": (lambda x: (_conv(x) * C + torch.arange(5.0), _conv(x) + x[0], _conv(x) * x.sum()), 5),
    "expanded": (lambda x: _conv(_conv(x) + C.expand_as(x)), 2),
    "1-D, without a batch": (lambda x: torch.conv1d(x[0, :, 0], S, padding=1).relu(), 2),
    "both results": (lambda x: (y := _conv(x), y.relu(), _conv(y)), 4),
    "sizes": (lambda x: _conv(x).reshape(2, 2, 2, 6, 5).transpose(1, 2).reshape(2, 4, 6, 5).relu(), 2),
    "in place": (_in_place, 2),
    "written to": (_written, 2),
    "squeeze and excite": (_squeeze_excite, 2),
    "norms of channels last": (_convnext, 2),
}


def without_pass(program: Program) -> Program:
    """Return a program that runs torch's graph."""
    plain = copy.copy(program)
    plain._steps = program._in_order
    return plain


def transpositions(program: Program) -> int:
    """Return the number of permutations that the program runs on axes longer than 1."""
    found = 0
    for part in program._steps.graph.nodes:
        if part.op.startswith("aten.permute"):
            (type_,) = part.types.values()
            dims: Any = part.kwargs["dims"]
            long = [dim for dim, size in zip(dims, type_.shape, strict=True) if size != 1]
            found += long != sorted(long)
    return found


def assert_equal_runs(program: Program, x: Tensor, expected: Sequence[Tensor]) -> None:
    """Compare results with torch's, and gradients with torch's graph."""

    def loss(program: Program, x: Any) -> Any:
        results = program(program.params, x)
        floats = [result for result in results if result.dtype == np.float32]
        return sum((jax.numpy.sin(result) * result).sum() for result in floats), results

    run = jax.jit(jax.grad(loss, 1, has_aux=True), static_argnums=0)
    gradient, results = run(program, x.numpy())
    for actual, theirs in zip(results, expected, strict=True):
        np.testing.assert_allclose(actual, theirs.numpy(), rtol=1e-4, atol=1e-4)
    plain = np.asarray(run(without_pass(program), x.numpy())[0])
    np.testing.assert_allclose(gradient, plain, rtol=1e-4, atol=1e-4 * max(1.0, float(np.abs(plain).max())))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_results_gradients_and_number_of_permutations(name: str) -> None:
    function, count = FUNCTIONS[name]
    x = torch.randn(2, 4, 6, 5)

    def listed(x: Tensor) -> tuple[Tensor, ...]:
        results = function(x)
        return tuple(results) if isinstance(results, list | tuple) else (results,)

    program = program_of_function(listed, (x,))
    assert_equal_runs(program, x, listed(x))
    assert transpositions(program) == count


# functions of one or two images (2, 4, 6, 6) with a result of the same shape
STEPS: tuple[Callable[..., Tensor], ...] = (
    lambda x: _conv(x),
    lambda x: functional.conv_transpose2d(x, W[:4], padding=1),
    lambda x: torch.conv2d(x, D, padding=1, groups=4),
    lambda x: functional.max_pool2d(x, 3, 1, 1),
    lambda x: functional.avg_pool2d(x, (3, 1), 1, (1, 0), count_include_pad=False),
    lambda x: functional.group_norm(x, 2, C[:, 0, 0]),
    lambda x: functional.interpolate(x[:, :, ::2], (6, 6)),
    lambda x: functional.pad(x[..., 1:], (1, 0, 0, 0), mode="replicate"),
    lambda x: x.transpose(2, 3),
    lambda x: x.permute(0, 2, 3, 1).softmax(-1).movedim(3, 1),
    lambda x: x.flatten(2).unflatten(2, (6, 6)),
    lambda x: x - x.amax((1, 3), keepdim=True),
    lambda x: x.relu_().mul_(C),
    lambda x, y: x + 0.5 * y,
    lambda x, y: torch.cat([x[:, :2], y[:, 1:3]], 1),
    lambda x, y: torch.where(x > 0, y, x.mean((2, 3))[:, :, None, None]),
    lambda x, y: torch.stack([x, y], 1)[:, 1] - y.unbind(0)[0],
)


@pytest.mark.parametrize("seed", seeds(fast=3, slow=8))
def test_random_graphs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    steps = [STEPS[0], *(STEPS[index] for index in rng.integers(len(STEPS), size=10))]
    picks = [rng.integers(0, 3, size=2).tolist() for _ in steps]

    def function(x: Tensor) -> tuple[Tensor, ...]:
        images = [x.clone()] * 3
        for step, pick in zip(steps, picks, strict=True):
            taken = [images[-1 - index] for index in pick][: step.__code__.co_argcount]
            images.append(step(*taken))
        return images[-1], images[-2]

    x = torch.randn(2, 4, 6, 6)
    assert_equal_runs(program_of_function(function, (x,)), x, function(x))


def test_a_permutation_without_gradient() -> None:
    def forward(_: Any, x: Tensor) -> Tensor:
        y = _conv(x)
        with torch.no_grad():
            z = y.permute(0, 2, 3, 1)
        return _conv(y) + _conv(z.permute(0, 3, 1, 2))

    # The results of two convolutions are of the order of 1, for a tolerance of 1e-5.
    module, x = module_of(forward), (0.01 * torch.randn(2, 4, 6, 5)).requires_grad_()
    program = jaxlstm.from_module(module, (x.detach(),))
    require_equal(program, module, x)
