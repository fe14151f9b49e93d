"""``shard`` on eight simulated devices, and its errors."""

from typing import Any

import jax
import numpy as np
import pytest

from jaxlstm import LSTMConfig
from jaxlstm._shared.aligned import aligned_zeros
from jaxlstm.inference import shard
from testing.inference import normal, weights
from testing.processes import run_python

QUICK = ["default_device", "both:data=2,hidden=4"]
SLOW = ["stack:data=2,hidden=4", "stack:data=8", "stack:hidden=8", "both:data=8", "both:hidden=8"]


@pytest.mark.parametrize("cases", [QUICK, pytest.param(SLOW, marks=pytest.mark.slow)], ids=["quick", "slow"])
def test_eight_devices(cases: list[str]) -> None:
    printed = run_python("-m", "testing.eight_devices", *cases, devices=8, JAX_PLATFORMS="cpu")
    assert printed.split() == cases


def test_placed_params_do_not_share_memory_with_numpy() -> None:
    config = LSTMConfig(5, 16, proj_size=8)
    params = {name: aligned_zeros(leaf.shape, leaf.dtype) for name, leaf in weights(config).items()}
    placed = shard(config, jax.make_mesh((1,), ("data",))).place(params)
    for leaf in params.values():
        leaf[...] = 1
    assert not any(np.any(leaf) for leaf in placed.values())


def test_errors_of_shard() -> None:
    mesh = jax.make_mesh((1,), ("model",))
    with pytest.raises(ValueError, match="the axes of mesh must be some of"):
        shard(LSTMConfig(5, 16), mesh)
    sharded = shard(LSTMConfig(5, 16), jax.make_mesh((1,), ("data",)))
    with pytest.raises(ValueError, match="params do not fit"):
        sharded.place({})
    with pytest.raises(ValueError, match="inputs must have 3 axes, the last of size 5"):
        sharded({}, jax.numpy.zeros((3, 2, 4)))


def test_errors_of_a_call() -> None:
    config = LSTMConfig(5, 16, num_layers=2)
    params = weights(config)
    sharded = shard(config, jax.make_mesh((1,), ("hidden",)))
    placed = sharded.place(params)
    x = normal(3, 2, 5)
    h, c = (normal(*shape) for shape in config.state_shapes(2))
    fewer = {k: v for k, v in placed.items() if k != "bias_hh_l1"}
    calls: tuple[tuple[Any, type[Exception], str], ...] = (
        ((params, x), ValueError, r"must come from Sharded.place, .*; got \(64, 5\)"),
        ((fewer, x), ValueError, r"which gives bias_hh_l1 the shape .*; got none"),
        ((placed, x, (h[:1], c)), ValueError, r"h_0 must have shape \(2, 2, 16\), got \(1, 2, 16\)"),
        ((placed, x, (h,)), TypeError, "the state must be a pair"),
        ((placed, x.astype(int)), TypeError, "inputs must be float16, bfloat16, float32 or float64"),
        ((placed, x.astype(np.float16)), TypeError, "inputs and params must have one dtype"),
    )
    for arguments, kind, message in calls:
        with pytest.raises(kind, match=message):
            sharded(*arguments)
