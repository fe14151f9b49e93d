"""Convolutions by the native kernel, on each instruction set, against torch in float64."""

from functools import partial
from typing import Any

import jax
import numpy as np
import pytest
import torch

from jaxlstm.kernels.cpu import convolution
from jaxlstm.kernels.cpu.convolution import ACTIVATIONS, convolve, packed, takes_convolution
from jaxlstm.layer.convolution import Geometry
from testing.problems import needs_native, using

pytestmark = needs_native

APPLY = {
    "none": lambda y: y,
    "relu": torch.relu,
    "relu6": torch.nn.functional.relu6,
    "hardswish": torch.nn.functional.hardswish,
    "silu": torch.nn.functional.silu,
}


def problem(seed: int) -> dict[str, Any]:
    """Return arrays and settings of a random convolution: plain, depthwise or with groups, by turns.

    Every second one with one group has a gate, and every second one a residual.
    """
    rng = np.random.default_rng(seed)

    def number(low: int, high: int) -> int:
        return int(rng.integers(low, high))

    axes = 1 + seed % 2
    kernel, dilation = [number(1, 6) for _ in range(axes)], [number(1, 3) for _ in range(axes)]
    groups, each, outputs = [
        (1, number(1, 90), number(2, 150)),
        (many := number(2, 90), 1, many),
        (few := number(2, 5), number(2, 9), few * number(1, 40)),
    ][seed % 3]
    size = [number(d * (k - 1) + 1, d * (k - 1) + 60) for k, d in zip(kernel, dilation, strict=True)]
    shapes = (number(1, 4), *size, groups * each), (outputs, each, *kernel), (outputs,)
    x, weight, bias = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    pads = tuple((number(0, 4), number(0, 4)) for _ in range(axes))
    geometry = Geometry(tuple(number(1, 4) for _ in range(axes)), pads, tuple(dilation))
    activation = ACTIVATIONS[seed % len(ACTIVATIONS)]
    gate = rng.standard_normal((len(x), x.shape[-1])).astype(np.float32) if seed % 4 > 1 else None
    result = len(x), *geometry.counts(size, kernel), outputs
    residual = rng.standard_normal(result).astype(np.float32) if seed // 2 % 2 else None
    return {
        "gate": gate if groups == 1 else None,
        "residual": residual,
        "x": x,
        "weight": weight,
        "bias": bias,
        "geometry": geometry,
        "groups": groups,
        "activation": activation,
    }


def in_torch(
    x: Any, weight: Any, bias: Any, geometry: Geometry, groups: int, activation: str, **added: Any
) -> torch.Tensor:
    gate, residual = added.get("gate"), added.get("residual")
    x, weight, bias = (torch.tensor(np.asarray(array), dtype=torch.float64) for array in (x, weight, bias))
    if gate is not None:
        x = x * torch.tensor(gate).reshape(len(x), *(1,) * (x.ndim - 2), -1)
    padded = torch.nn.functional.pad(x.movedim(-1, 1), [n for pair in geometry.pads[::-1] for n in pair])
    function = torch.conv1d if weight.ndim == 3 else torch.conv2d
    y = function(padded, weight, bias, geometry.stride, 0, geometry.dilation, groups)
    return APPLY[activation](y.movedim(1, -1) + torch.tensor(0.0 if residual is None else residual))


def run(x: Any, weight: Any, bias: Any, *settings: Any, threads: int = 0, **named: Any) -> jax.Array:
    given = {**dict(zip(("geometry", "groups", "activation"), settings, strict=False)), **named}
    kernel = packed(weight, given["groups"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolution, "THREADS", threads)
        call = partial(convolve, shape=weight.shape, bias=bias, **given)
        return jax.jit(lambda x: call(x, kernel))(x)


@pytest.mark.quick("avx512-0", "avx512-15", "avx2-0", "baseline-0")
@pytest.mark.parametrize("first", [0, 15])
@pytest.mark.parametrize("instruction_set", ["avx512", "avx2", "baseline"])
def test_values(instruction_set: str, first: int) -> None:
    """Values equal torch's, and have the same bits on one thread and on two or five."""
    with using(instruction_set):
        for seed in range(first, first + 15):
            given = problem(seed)
            assert takes_convolution(given["x"], given["weight"], given["geometry"], given["groups"])
            one, more = (np.asarray(run(**given, threads=threads)) for threads in (1, (2, 5)[seed % 2]))
            np.testing.assert_array_equal(one, more)
            arrays = ("x", "weight", "bias", "gate", "residual")
            sizes = {name: np.abs(given[name]) for name in arrays if given[name] is not None}
            terms = in_torch(**{**given, **sizes, "activation": "none"})
            error = np.abs(one - in_torch(**given).numpy()) / terms.numpy()
            assert one.shape == error.shape
            assert error.max() < 2e-6, (seed, error.max())


def test_nan_and_infinity() -> None:
    """A window with NaN gives NaN whatever the activation, and one with infinity what torch gives."""
    x = np.ones((1, 9, 2), np.float32)
    x[0, 2, 0], x[0, 7, 1] = np.nan, np.inf
    weight = np.ones((3, 2, 2), np.float32)
    for activation in ACTIVATIONS:
        given = (x, weight, np.zeros(3, np.float32), Geometry((1,), ((1, 1),), (1,)), 1, activation)
        np.testing.assert_allclose(run(*given), in_torch(*given).numpy(), rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": (7,)}, "weights must have shape"),
        ({"bias": (4,)}, "bias must have shape"),
        ({"x": (1, 5, 6)}, "x must have 4 axes"),
        ({"geometry": [1, 1]}, "geometry must have 10 numbers"),
        ({"geometry": [1, 1, 1, 1, 0, 0, 1, 1, 2, 0]}, "sizes do not fit"),
        ({"geometry": [1, 1, 1, 0, 0, 0, 1, 1, 1, 0]}, "stride and dilation must be at least 1"),
        ({"gate": (1, 5)}, "gate must have shape"),
        ({"residual": (1, 4, 5, 3)}, "residual must have shape"),
    ],
)
def test_handler_rejects(change: dict[str, Any], message: str) -> None:
    weights = np.shape(packed(np.zeros((5, 3, 1, 1), np.float32), 1))  # as wide as the machine's vectors
    shapes: dict[str, Any] = {"x": (1, 4, 5, 3), "weights": weights, "bias": (5,), "gate": (0,)}
    shapes["residual"] = (0,)
    geometry = np.array(change.get("geometry", [1, 1, 1, 1, 0, 0, 1, 1, 1, 0]), np.int64)
    operands = [np.zeros(change.get(name, shape), np.float32) for name, shape in shapes.items()]
    call = jax.ffi.ffi_call("jaxlstm_convolve", jax.ShapeDtypeStruct((1, 4, 5, 5), np.float32))
    with pytest.raises(jax.errors.JaxRuntimeError, match=message):
        jax.block_until_ready(call(*operands, geometry=geometry, threads=np.int64(0), reverse=False))
