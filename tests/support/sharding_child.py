"""Run by test_sharding.py in a process that JAX shows eight devices: prints "equal" for each case.

Its arguments are cases such as ``stack:hidden=8`` and ``both:data=2,hidden=4``.
"""

from __future__ import annotations

import re
import sys

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm import LSTMConfig, lstm
from jaxlstm.inference import shard
from tests.support.inference import normal, weights

CONFIGS = {
    "stack": LSTMConfig(5, 16, num_layers=2, batch_first=True),
    "both": LSTMConfig(5, 16, bidirectional=True, proj_size=3),
}
COLLECTIVES = r"(all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("


def check(config: LSTMConfig, sizes: tuple[int, ...], names: tuple[str, ...]) -> None:
    params = weights(config)
    sharded = shard(config, jax.make_mesh(sizes, names))
    placed = sharded.place(params)
    for name, leaf in sharded.gather(placed).items():
        np.testing.assert_array_equal(leaf, params[name])
    x = normal(8, 7, 5) if config.batch_first else normal(7, 8, 5)
    shapes = config.state_shapes(8)
    state = normal(*shapes[0], seed=1), normal(*shapes[1], seed=2)
    lengths = np.array([7, 3, 1, 7, 5, 2, 6, 7])

    def loss(run: object) -> object:
        def value(params: dict, x: jax.Array) -> jax.Array:
            outputs, final = run(params, x)  # type: ignore[operator]
            return jnp.sum(outputs**2) + jnp.sum(final.c), (outputs, final)  # type: ignore[return-value]

        return jax.jit(jax.value_and_grad(value, argnums=(0, 1), has_aux=True))

    one = loss(lambda p, x: lstm(p, x, state, config=config, seq_lengths=lengths, backend="scan"))
    many = loss(lambda p, x: sharded(p, x, state, lengths))
    wanted = one(params, x)  # type: ignore[operator]
    found = many(placed, x)  # type: ignore[operator]
    assert_close(wanted[0], found[0])
    assert_close(wanted[1][0], sharded.gather(found[1][0]))
    assert_close(wanted[1][1], found[1][1])

    program = jax.jit(sharded).lower(placed, jnp.asarray(x)).compile().as_text()
    assert program is not None
    collectives = re.findall(COLLECTIVES, program)
    expected = config.num_layers * config.num_directions if "hidden" in names else 0
    assert collectives == ["all-gather"] * expected, collectives
    if "hidden" in names:
        assert all("/while/body/" in line for line in program.splitlines() if " all-gather" in line)
    print("equal")


def assert_close(wanted: object, found: object) -> None:
    for a, b in zip(jax.tree.leaves(wanted), jax.tree.leaves(found), strict=True):
        scale = max(1.0, float(np.abs(a).max()))
        np.testing.assert_allclose(np.asarray(b), np.asarray(a), rtol=0, atol=3e-6 * scale)


if __name__ == "__main__":
    assert len(jax.devices()) == 8
    for case in sys.argv[1:]:
        name, mesh = case.split(":")
        sizes = {axis: int(size) for axis, size in (a.split("=") for a in mesh.split(","))}
        check(CONFIGS[name], tuple(sizes.values()), tuple(sizes))
