"""Pooling within a chain of convolutions: values, gradients, and XLA's layout of the chain."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import jaxlstm
from jaxlstm.programs.operators.registry import Options, find_operator

pytestmark = pytest.mark.usefixtures("fast_compilation")


class Chain(nn.Module):
    """Two pools between convolutions, with groups, a skip connection, a result in the middle, and flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.norm = nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, 6, (2, 1))
        self.pools = nn.MaxPool2d(3, 2, padding=1), nn.MaxPool2d((2, 1), ceil_mode=True), nn.AvgPool2d(2)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.pools[0](torch.relu(self.first(images)))
        middle = self.pools[1](torch.relu_(self.norm(self.grouped(x)) + x))
        return middle, self.pools[2](self.last(middle)).flatten(1, 2)


@pytest.fixture(scope="module")
def chain() -> tuple[Chain, jaxlstm.Program, Tensor]:
    """Return the chain, its program, and images of another size than it was exported with."""
    torch.manual_seed(0)
    module = Chain().eval()
    with torch.no_grad():
        for name, buffer in module.norm.named_buffers():
            if name != "num_batches_tracked":
                buffer.uniform_(0.5, 2)
    dynamic = {"images": {0: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}}
    program = jaxlstm.from_module(module, (torch.randn(2, 1, 12, 20),), dynamic_shapes=dynamic)
    return module, program, torch.randn(3, 1, 12, 26)


def test_values_and_gradients(chain: Any) -> None:
    module, program, images = chain

    def loss(params: Any, x: jax.Array) -> tuple[jax.Array, Any]:
        results = program(params, x)
        return sum((jnp.sin(r).sum() for r in results), jnp.zeros(())), results

    x = jnp.asarray(images.numpy())
    (_, ours), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(program.params, x)
    theirs = module(images)
    torch.stack([torch.sin(r).sum() for r in theirs]).sum().backward()
    for actual, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(actual, expected.detach(), rtol=1e-5, atol=1e-5)
    for name, parameter in module.named_parameters():
        np.testing.assert_allclose(gradients[name], parameter.grad, rtol=1e-4, atol=1e-4, err_msg=name)


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
