"""Pooling and convolutions on a CPU: fast forms and layouts against XLA and torch, with gradients."""

from functools import partial
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax import lax

from jaxlstm.layer import convolution
from jaxlstm.programs.operators.registry import Options
from testing.graphs import operator_function
from testing.seeds import seeds


def test_no_transposed_copy_between_convolutions() -> None:
    """XLA's convolutions on a CPU have channels last, and a pool writes no other layout to memory."""
    convolve = partial(operator_function("aten.conv2d.default"), padding=1, options=Options())
    pool = operator_function("aten.max_pool2d.default")

    def layers(x: jax.Array, first: jax.Array, second: jax.Array) -> jax.Array:
        return convolve(pool(jax.nn.relu(convolve(x, first)), 2), second)

    shapes = (3, 5, 12, 26), (8, 5, 3, 3), (7, 8, 3, 3)
    lowered = jax.jit(layers).lower(*(jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes))
    assert "reduce_window" not in lowered.as_text()
    if jax.default_backend() == "cpu":
        # The results of fusions are in the entry computation.
        entry = str(lowered.compile().as_text()).partition("ENTRY")[2]
        assert "f32[3,6,13,8]" in entry
        assert "f32[3,8,12,26]" not in entry
        assert "f32[3,8,6,13]" not in entry


def test_nan_and_integers() -> None:
    pool = operator_function("aten.max_pool1d.default")
    x = np.array([[[1, np.nan, 2, 5, np.nan, np.nan, 0, -np.inf]]], np.float32)
    np.testing.assert_array_equal(pool(jnp.asarray(x), 2), torch.max_pool1d(torch.tensor(x), 2))
    whole = np.array([[[3, -(2**31), 7, -5]]], np.int32)
    np.testing.assert_array_equal(pool(jnp.asarray(whole), 3, 2, 1), [[[3, 7]]])


SPACES = {1: "W", 2: "HW", 3: "DHW"}


def xla(x: Any, weight: Any, stride: Any, pads: Any, dilation: Any, groups: int) -> Any:
    images = f"N{SPACES[weight.ndim - 2]}C"
    spec = (images, f"OI{SPACES[weight.ndim - 2]}", images)
    return lax.conv_general_dilated(x, weight, stride, pads, None, dilation, spec, groups)


# (n channels, outputs per channel of a group, groups, size of a kernel axis or None for random), the form
FAMILIES = {
    "depthwise": ((6, 6, 6, None), "_sum_of_products"),
    "depthwise with two outputs each": ((5, 10, 5, None), "_sum_of_products"),
    "few groups": ((6, 9, 3, None), "_group_by_group"),
    "groups in blocks": ((48, 24, 24, None), "_group_by_group"),
    "kernels of size 1": ((7, 5, 1, 1), "_patches_times_weights"),
    "colours": ((3, 5, 1, 2), "_patches_times_weights"),
    "few positions": ((2, 3000, 1, None), "_patches_times_weights"),
    "frames": ((1, 64, 1, 6), "_frames_times_weights"),
}


@pytest.mark.parametrize("seed", seeds(fast=2, slow=4))
@pytest.mark.parametrize("family", FAMILIES)
def test_fast_forms_equal_xla(family: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    (channels, outputs, groups, size), form = FAMILIES[family]
    used = []
    fast = getattr(convolution, form)
    monkeypatch.setattr(convolution, form, lambda *args: used.append(form) or fast(*args))
    rng = np.random.default_rng(seed)
    n = 1 if family == "frames" else 1 + (seed + len(family)) % 3
    kernel = [size or int(k) for k in rng.integers(1, 4, n)]
    if n == 3 and size == 2:
        kernel[0] = 1
    stride, dilation, padding = (rng.integers(low, low + 3, n).tolist() for low in (1, 1, 0))
    dilation = [1] if family == "frames" else dilation
    dtype, tolerance = (jnp.float32, 1e-5) if seed else (jnp.bfloat16, 2e-2)
    x = jnp.asarray(rng.normal(size=(2, *rng.integers(8, 12, n), channels)), dtype)
    weight = jnp.asarray(rng.normal(size=(outputs, channels // groups, *kernel)), dtype)
    convolve = operator_function(f"channels_last.conv{n}d.default")

    def ours(x: Any, weight: Any) -> Any:
        geometry = (stride, padding, dilation, groups)
        return convolve(x, weight, None, *geometry, options=Options())

    def theirs(x: Any, weight: Any) -> Any:
        return xla(x, weight, stride, [(p, p) for p in padding], dilation, groups)

    def run(function: Any) -> Any:
        y, pull = jax.vjp(function, x, weight)
        return y, *pull(jnp.cos(y.astype(jnp.float32)).astype(y.dtype))

    for actual, expected in zip(jax.jit(lambda: run(ours))(), jax.jit(lambda: run(theirs))(), strict=True):
        actual, expected = (np.asarray(array, np.float32) for array in (actual, expected))
        np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * max(1, np.abs(expected).max()))
    assert used


def test_other_platforms_keep_xlas_convolution() -> None:
    convolve = operator_function("channels_last.conv2d.default")
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, 8, 8, 4), (4, 1, 3, 3))]
    run = jax.jit(lambda x, weight: convolve(x, weight, groups=4, options=Options()))
    texts = {
        name: run.trace(*shapes).lower(lowering_platforms=(name,)).as_text()
        for name in ("cpu", "cuda", "tpu")
    }
    assert {name: text.count("stablehlo.convolution") for name, text in texts.items()} == {
        "cpu": 0,
        "cuda": 1,
        "tpu": 1,
    }


def test_sizes_of_an_exported_artifact_may_be_free() -> None:
    convolve = operator_function("channels_last.conv2d.default")
    run = jax.jit(lambda x, weight: convolve(x, weight, stride=2, padding=1, groups=4, options=Options()))
    height, width = jax.export.symbolic_shape("h, w", constraints=["h >= 4", "w >= 4"])
    weight = jax.random.normal(jax.random.key(1), (4, 1, 3, 3))
    shapes = jax.ShapeDtypeStruct((1, height, width, 4), jnp.float32), jax.typeof(weight)
    exported = jax.export.export(run, platforms=["cpu", "cuda"])(*shapes)
    for size in (8, 9):
        x = jax.random.normal(jax.random.key(0), (1, size, 7, 4))
        np.testing.assert_allclose(exported.call(x, weight), run(x, weight), rtol=1e-6, atol=1e-6)
