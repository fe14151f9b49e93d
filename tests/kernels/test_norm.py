"""Norms by the native kernel, on each instruction set, against torch in float64."""

from typing import Any

import jax
import numpy as np
import pytest
import torch

from jaxlstm.kernels.cpu import norm
from jaxlstm.kernels.cpu.norm import normalize, takes_norm
from testing.problems import needs_native, using

pytestmark = needs_native


def problem(seed: int) -> dict[str, Any]:
    """Return the arguments of a random norm, whose mean may be far from 0.

    By turns, the channels are the second of several axes, the last one, and the last of two.
    """
    rng = np.random.default_rng(seed)
    groups, each = (int(rng.integers(1, high)) for high in ((9, 40), (40, 9), (2, 400))[seed // 3 % 3])
    sizes = [int(rng.integers(1, high)) for high in (12, 300)[: 2 * (seed % 3 < 2)]]
    place = 1 + len(sizes) * (seed % 3 == 1)
    shape = [int(rng.integers(1, 7)), *sizes]
    shape.insert(place, groups * each)
    x = 10.0 ** (seed % 4) + rng.standard_normal(shape)
    weight, bias = rng.standard_normal((2, groups * each)).astype(np.float32)
    return {
        "x": x.astype(np.float32),
        "place": place,
        "groups": groups,
        "weight": None if seed % 5 == 1 else weight,
        "bias": None if seed % 5 == 2 else bias,
        "eps": (1e-5, 1e-3)[seed % 2],
    }


def in_torch(x: Any, place: int, groups: int, weight: Any, bias: Any, eps: float) -> tuple[Any, Any]:
    """Return the result and a bound of its error, with the channels in the second axis."""
    x, weight, bias = (None if a is None else torch.tensor(a, dtype=torch.float64) for a in (x, weight, bias))
    x = x.movedim(place, 1)
    variance, mean = torch.var_mean(x.reshape(len(x), groups, -1), 2, correction=0)
    # torch refuses a single element in each group, whose variance is 0.
    twice = torch.stack([x] * 2, -1)
    y, one = (
        torch.nn.functional.group_norm(twice, groups, *given, eps)[..., 0]
        for given in ((weight, bias), (None, None))
    )
    # The mean has the errors of a sum in float32.
    rounding = 2.0**-22 * (mean.abs() + x.abs().max()) / torch.sqrt(variance + eps)
    error = rounding.repeat_interleave(x.shape[1] // groups, 1).reshape(*x.shape[:2], *[1] * (x.ndim - 2))
    factor = 1 if weight is None else weight.abs().reshape(-1, *[1] * (x.ndim - 2))
    shift = 0 if bias is None else bias.abs().reshape(-1, *[1] * (x.ndim - 2))
    return y, (error + 1e-6 * one.abs()) * factor + 1e-7 * shift


def run(threads: int, **given: Any) -> np.ndarray:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(norm, "THREADS", threads)
        x = given.pop("x")
        return np.asarray(jax.jit(lambda x: normalize(x, **given))(x))


@pytest.mark.quick("avx512", "avx2", "baseline")
@pytest.mark.parametrize("instruction_set", ["avx512", "avx2", "baseline"])
def test_values(instruction_set: str) -> None:
    """Values equal torch's, and have the same bits on one thread and on two or five."""
    with using(instruction_set):
        for seed in range(36):
            given = problem(seed)
            assert takes_norm(given["x"])
            one, more = (run(threads, **given) for threads in (1, (2, 5)[seed % 2]))
            np.testing.assert_array_equal(one, more)
            expected, bound = in_torch(**given)
            error = (torch.tensor(one).movedim(given["place"], 1) - expected).abs()
            assert (error <= bound).all(), (seed, (error / bound).max())


@pytest.mark.parametrize("place", [1, 2])
def test_nan_stays_in_its_group(place: int) -> None:
    x = np.random.default_rng(0).standard_normal((2, 70, 70)).astype(np.float32)
    x[1, 3, 3] = np.nan
    y = np.moveaxis(run(0, x=x, place=place, groups=7, weight=None, bias=None, eps=1e-5), place, 1)
    assert np.isnan(y[1, :10]).all()
    assert np.isfinite(y[0]).all()
    assert np.isfinite(y[1, 10:]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": (2, 6, 5)}, "x must have 4 axes"),
        ({"x": (2, 3, 6, 5)}, "sizes do not fit"),
        ({"groups": 4}, "sizes do not fit"),
        ({"groups": 0}, "sizes do not fit"),
        ({"weight": (5,)}, "weight must have shape"),
        ({"bias": (7,)}, "bias must have shape"),
    ],
)
def test_handler_rejects(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"x": (2, 1, 6, 5), "weight": (6,), "bias": (0,), "groups": 3, **change}
    operands = [np.zeros(given[name], np.float32) for name in ("x", "weight", "bias")]
    call = jax.ffi.ffi_call("jaxlstm_normalize", jax.ShapeDtypeStruct(given["x"], np.float32))
    settings: Any = {"groups": np.int64(given["groups"]), "eps": np.float64(1e-5), "threads": np.int64(0)}
    with pytest.raises(jax.errors.JaxRuntimeError, match=message):
        jax.block_until_ready(call(*operands, reverse=False, **settings))
