"""A side that is a function in JAX, and jaxlstm's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxlstm.bench.side import Side
from jaxlstm.bench.sizes import Problem
from jaxlstm.functional import lstm


def jax_side(apply: Callable[[Any, Any, Any], jax.Array], weights: Any, problem: Problem) -> Side:
    """``apply(weights, inputs, lengths)`` gives the outputs. It is compiled at the first call."""
    x = jnp.asarray(problem.inputs)
    lengths = None if problem.lengths is None else jnp.asarray(problem.lengths)

    def loss(x: Any, weights: Any, lengths: Any) -> jax.Array:
        return jnp.sum(apply(weights, x, lengths) ** 2)

    infer = jax.jit(apply)
    train = jax.jit(jax.grad(loss, argnums=(0, 1)))
    return Side(
        lambda: jax.block_until_ready(infer(weights, x, lengths)),
        lambda: jax.block_until_ready(train(x, weights, lengths)),
    )


def own_side(problem: Problem, backend: str, precision: str) -> Side:
    """``jaxlstm.lstm`` as it is used: one jitted call, what it prepares from the weights included."""
    params = {name: jnp.asarray(value) for name, value in problem.params.items()}

    def apply(params: Any, x: Any, lengths: Any) -> jax.Array:
        options: Any = {"seq_lengths": lengths, "backend": backend, "precision": precision}
        outputs, _ = lstm(params, x, config=problem.config, **options)
        return outputs

    return jax_side(apply, params, problem)
