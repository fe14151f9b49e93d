"""Pooling: XLA's layout of a chain of convolutions, gradients of equal elements, NaN and integers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxlstm.programs.operators.registry import Options, find_operator

pytestmark = pytest.mark.usefixtures("fast_compilation")


def test_no_transposed_copy_between_convolutions() -> None:
    """XLA's convolutions on a CPU have channels last, and a pool writes no other layout to memory."""
    convolve = partial(function("conv2d"), padding=1, options=Options())

    def layers(x: jax.Array, first: jax.Array, second: jax.Array) -> jax.Array:
        return convolve(function("max_pool2d")(jax.nn.relu(convolve(x, first)), 2), second)

    shapes = (3, 5, 12, 26), (8, 5, 3, 3), (7, 8, 3, 3)
    lowered = jax.jit(layers).lower(*(jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes))
    assert "reduce_window" not in lowered.as_text()
    if jax.default_backend() == "cpu":
        # The results of fusions are in the entry computation.
        entry = str(lowered.compile().as_text()).partition("ENTRY")[2]
        assert "f32[3,6,13,8]" in entry
        assert "f32[3,8,12,26]" not in entry
        assert "f32[3,8,6,13]" not in entry


def function(name: str) -> Callable[..., Any]:
    operator = find_operator(f"aten.{name}.default")
    assert operator is not None
    return operator.function


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    [((2, 2), (2, 2), 0, 1), ((3, 2), (1, 2), 1, 1), ((2, 3), (1, 1), 1, 2), ((9, 9), (3, 3), 4, 1)],
)
def test_gradient_of_equal_elements(kernel: Any, stride: Any, padding: int, dilation: int) -> None:
    """The first of equal elements gets the gradient, with few slices, many elements, and dilation."""
    x = np.random.default_rng(0).integers(0, 3, (2, 1, 13, 11)).astype(np.float32)
    args = (kernel, stride, padding, dilation)
    y, pull = jax.vjp(lambda x: function("max_pool2d")(x, *args), jnp.asarray(x))
    weights = np.random.default_rng(1).standard_normal(y.shape).astype(np.float32)
    ours = pull(jnp.asarray(weights))[0]
    leaf = torch.tensor(x, requires_grad=True)
    expected = torch.max_pool2d(leaf, *args)
    (gradient,) = torch.autograd.grad(expected, leaf, torch.tensor(weights))
    np.testing.assert_array_equal(y, expected.detach())
    np.testing.assert_allclose(ours, gradient, rtol=1e-6, atol=1e-6)


def test_nan_and_integers() -> None:
    pool = function("max_pool1d")
    x = np.array([[[1, np.nan, 2, 5, np.nan, np.nan, 0, -np.inf]]], np.float32)
    np.testing.assert_array_equal(pool(jnp.asarray(x), 2), torch.max_pool1d(torch.tensor(x), 2))
    whole = np.array([[[3, -(2**31), 7, -5]]], np.int32)
    np.testing.assert_array_equal(pool(jnp.asarray(whole), 3, 2, 1), [[[3, 7]]])
