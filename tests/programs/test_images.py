"""Grids and patches of images: settings, borders and refusals that PyTorch's samples leave out."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from jaxlstm.programs.operators.patches import overlap_add
from jaxlstm.programs.operators.registry import Options, find_operator
from testing.op_samples import require_equal_gradients, require_equal_results

SLOW = pytest.mark.slow
GRIDS = list(itertools.product(("bilinear", "nearest", "bicubic"), ("zeros", "border", "reflection")))
# The borders and centres of elements, where the interpolation changes, and places outside.
TIES = torch.tensor([-3.0, -1.25, -1.0, -0.75, -0.5, -0.25, 0.0, 0.5, 1.0, 1.5, 2.75], dtype=torch.float64)


def require_equal_at_borders(modes: Sequence[tuple[str, str]], align_corners: bool) -> None:
    """Compare modes in an image of 5 x 1: reflection has no room on the second axis with aligned corners."""

    def sample(image: Tensor, grid: Tensor) -> tuple[Tensor, ...]:
        return tuple(functional.grid_sample(image, grid, *mode, align_corners) for mode in modes)

    torch.manual_seed(0)
    image = torch.randn(1, 2, 5, 1, dtype=torch.float64, requires_grad=True)
    grid = torch.stack([TIES.roll(3), TIES], -1)[None, None].requires_grad_()
    with jax.enable_x64(True):
        require_equal_results(sample, [image, grid], jit=True)
        require_equal_gradients(sample, [image, grid])


def test_places_at_borders() -> None:
    require_equal_at_borders([("bilinear", "reflection")], align_corners=False)


@SLOW
@pytest.mark.parametrize("align_corners", [True, False])
def test_places_at_borders_in_all_modes(align_corners: bool) -> None:
    require_equal_at_borders(GRIDS, align_corners)


def test_an_infinite_element_outside_of_the_weights() -> None:
    image = torch.full((1, 1, 2, 2), torch.inf)
    image[..., 1, 1] = 3
    grid = torch.tensor([[[[9.0, 9.0], [1.0, 1.0]]]])
    require_equal_results(
        lambda x, g: (functional.grid_sample(x, g, align_corners=False),), [image, grid], jit=True
    )


@pytest.mark.parametrize(
    ("size", "align_corners"),
    [
        ((2, 3, 4, 1), False),
        pytest.param((2, 3, 4, 3), True, marks=SLOW),
        *(pytest.param((2, 1, 3, 2, 5), align, marks=SLOW) for align in (False, True)),
    ],
)
def test_affine_grid(size: tuple[int, ...], align_corners: bool) -> None:
    axes = len(size) - 2
    theta = torch.randn(2, axes, axes + 1, dtype=torch.float64, requires_grad=True)

    def grid(theta: Tensor) -> tuple[Tensor, ...]:
        return (functional.affine_grid(theta, list(size), align_corners),)

    with jax.enable_x64(True):
        require_equal_results(grid, [theta], jit=True)
        require_equal_gradients(grid, [theta])


# Output size, kernel, dilation, padding, stride: overlaps, gaps, a cropped end, and one patch.
FOLDS: dict[str, Any] = {
    "overlaps": ((7, 6), (3, 2), 1, 0, 1),
    "padding and steps": ((6, 9), (3, 4), 1, (1, 2), (2, 3)),
    "dilation": ((9, 8), (2, 3), (3, 2), 1, (1, 2)),
    "gaps": ((8, 7), 2, 1, 0, 3),
    "one patch": ((4, 5), (4, 5), 1, 0, 2),
}


FAST_FOLD = "padding and steps"


@pytest.mark.parametrize(
    "name", [FAST_FOLD, *(pytest.param(name, marks=SLOW) for name in FOLDS if name != FAST_FOLD)]
)
def test_fold_and_unfold(name: str) -> None:
    size, *settings = FOLDS[name]

    def fold_and_unfold(x: Tensor) -> tuple[Tensor, ...]:
        columns = functional.unfold(x, *settings)
        return columns, functional.fold(columns.sin(), size, *settings), functional.unfold(x[0], *settings)

    torch.manual_seed(0)
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    with jax.enable_x64(True):
        require_equal_results(fold_and_unfold, [x], jit=True)
        require_equal_gradients(fold_and_unfold, [x])


@pytest.mark.parametrize(("count", "length", "step"), [(4, 5, 3), (3, 2, 4), (1, 3, 1)])
def test_overlap_add(count: int, length: int, step: int) -> None:
    parts = np.random.default_rng(0).integers(-9, 9, (2, count, length))
    expected = np.zeros((2, (count - 1) * step + length), int)
    for k in range(count):
        expected[:, k * step : k * step + length] += parts[:, k]
    np.testing.assert_array_equal(overlap_add(jnp.asarray(parts), step), expected)


def function(name: str) -> Callable[..., jax.Array]:
    operator = find_operator(f"aten.{name}.default")
    assert operator is not None
    return operator.function


image, volume, columns = jnp.zeros((1, 2, 3, 4)), jnp.zeros((1, 2, 3, 4, 5)), jnp.zeros((1, 8, 6))
REFUSED: dict[str, tuple[str, str, tuple[Any, ...]]] = {
    "two axes, three coordinates": (
        "grid_sampler",
        "got shapes",
        (image, jnp.zeros((1, 1, 1, 3)), 0, 0, True),
    ),
    "another batch size": ("grid_sampler", "got shapes", (image, jnp.zeros((2, 1, 1, 2)), 0, 0, True)),
    "bicubic in 3d": (
        "grid_sampler_3d",
        "bicubic interpolation needs",
        (volume, jnp.zeros((1, 1, 1, 1, 3)), 2, 0, True),
    ),
    "no elements": (
        "grid_sampler_2d",
        "an image with elements",
        (image[..., :0], jnp.zeros((1, 1, 1, 2)), 0, 0, True),
    ),
    "a map of another dimension": (
        "affine_grid_generator",
        "needs theta",
        (image[0, :1], (1, 2, 3, 4), True),
    ),
    "columns of another size": (
        "col2im",
        r"needs columns \(N, C \* 4, 6\)",
        (columns[:, :7], (3, 4), 2, 1, 0, 1),
    ),
    "a kernel of 0": ("im2col", "must be at least 1", (image, 0, 1, 0, 1)),
    "a kernel beyond the image": ("im2col", "a patch of 4 does not fit", (image, 4, 1, 0, 1)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_arguments(name: str) -> None:
    operator, message, arguments = REFUSED[name]
    options = {"options": Options()} if operator == "affine_grid_generator" else {}
    with pytest.raises(ValueError, match=message):
        function(operator)(*arguments, **options)
