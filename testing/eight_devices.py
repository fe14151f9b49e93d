"""Checks on eight simulated devices, run by test_sharding.py in a separate process.

Each argument is a case, such as ``stack:hidden=8``, ``both:data=2,hidden=4`` or ``default_device``. Each case
that holds is printed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm import LSTMConfig, lstm
from jaxlstm.inference import compile, shard
from testing.inference import normal, weights

CONFIGS = {
    "stack": LSTMConfig(5, 16, num_layers=2),
    "both": LSTMConfig(5, 16, bidirectional=True, proj_size=3, batch_first=True),
}
COLLECTIVES = r"(all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("


def check_sharding(config: LSTMConfig, sizes: tuple[int, ...], names: tuple[str, ...]) -> None:
    """Compare results and gradients with one device, and count the collectives."""
    params = weights(config)
    sharded = shard(config, jax.make_mesh(sizes, names))
    placed = sharded.place(params)
    for name, leaf in sharded.gather(placed).items():
        np.testing.assert_array_equal(leaf, params[name])
    x = normal(8, 7, 5) if config.batch_first else normal(7, 8, 5)
    shapes = config.state_shapes(8)
    state = normal(*shapes[0], seed=1), normal(*shapes[1], seed=2)
    lengths = np.array([7, 3, 1, 7, 5, 2, 6, 7])

    one = _value_and_gradients(
        lambda p, x: lstm(p, x, state, config=config, seq_lengths=lengths, backend="scan")
    )
    many = _value_and_gradients(lambda p, x: sharded(p, x, state, lengths))
    expected, (expected_params, expected_x) = one(params, x)
    actual, (actual_params, actual_x) = many(placed, x)
    assert_close(actual, expected)
    assert_close(sharded.gather(actual_params), expected_params)
    assert_close(actual_x, expected_x)

    text = jax.jit(sharded).lower(placed, jnp.asarray(x)).compile().as_text()
    assert text is not None
    collectives = re.findall(COLLECTIVES, text)
    count = config.num_layers * config.num_directions if "hidden" in names else 0
    assert collectives == ["all-gather"] * count, collectives
    if "hidden" in names:
        assert all("/while/body/" in line for line in text.splitlines() if " all-gather" in line)


def _value_and_gradients(run: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def value(params: dict, x: jax.Array) -> tuple[jax.Array, Any]:
        outputs, final = run(params, x)
        return jnp.sum(outputs**2) + jnp.sum(final.c), (outputs, final)

    return jax.jit(jax.value_and_grad(value, argnums=(0, 1), has_aux=True))


def assert_close(actual: object, expected: object) -> None:
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        scale = max(1.0, float(np.abs(e).max()))
        np.testing.assert_allclose(np.asarray(a), np.asarray(e), rtol=0, atol=3e-6 * scale)


def check_jit_over_the_batch() -> None:
    """A batch that is split over the devices stays split, and nothing is sent."""
    config = LSTMConfig(5, 16, num_layers=2, bidirectional=True)
    params, x, lengths = weights(config), normal(7, 8, 5), np.array([3, 6, 1, 6, 4, 2, 5, 7])
    mesh = jax.make_mesh((8,), ("batch",))
    rows = jax.NamedSharding(mesh, jax.P(None, "batch"))
    split = jax.device_put(x, rows), jax.device_put(lengths, jax.NamedSharding(mesh, jax.P("batch")))
    run = jax.jit(lambda p, x, n: lstm(p, x, config=config, seq_lengths=n)[0])
    outputs = run(params, *split)
    assert outputs.sharding.is_equivalent_to(rows, 3), outputs.sharding
    assert not re.search(COLLECTIVES, str(run.lower(params, *split).compile().as_text()))
    assert_close(outputs, run(params, x, lengths))


def check_default_device() -> None:
    """A Runner uses JAX's default device, which may be a device, a platform or None."""
    config = LSTMConfig(5, 12)
    for default, expected in ((jax.devices()[1], 1), ("cpu", 0), (None, 0)):
        with jax.default_device(default):
            runner = compile(weights(config), config, max_length=1, max_batch=1)
            assert runner.device.id == expected


if __name__ == "__main__":
    assert len(jax.devices()) == 8
    jax.config.update("jax_disable_most_optimizations", True)  # most of the time is compilation
    for case in sys.argv[1:]:
        if case == "default_device":
            check_default_device()
        elif case == "jit_over_the_batch":
            check_jit_over_the_batch()
        else:
            name, mesh = case.split(":")
            sizes = {axis: int(size) for axis, size in (a.split("=") for a in mesh.split(","))}
            check_sharding(CONFIGS[name], tuple(sizes.values()), tuple(sizes))
        print(case)
