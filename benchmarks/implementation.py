"""The two calls that every implementation of an LSTM provides, and jaxlstm's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.parts import Settings
from benchmarks.problems import Problem
from jaxlstm.functional import lstm
from jaxlstm.inference import compile


class Unsupported(Exception):  # noqa: N818, not an error: the benchmark goes on
    """A library cannot run this problem. The message gives the reason."""


class Implementation(NamedTuple):
    """Two calls that return when their work is done.

    Attributes:
      infer: returns the outputs (T, B, D*h_size), zero after the end of each sequence.
      train: returns the gradients of the sum of squared outputs with respect to the inputs and to the
        weights: a dict under torch's names, or the library's own tree. None if the library does not train.
    """

    infer: Callable[[], Any]
    train: Callable[[], tuple[Any, Any]] | None


def in_jax(apply: Callable[[Any, Any, Any], jax.Array], weights: Any, problem: Problem) -> Implementation:
    """Jit ``apply(weights, inputs, lengths) -> outputs`` and its gradient; both compile when first called."""
    x = jnp.asarray(problem.inputs, problem.dtype)
    lengths = None if problem.lengths is None else jnp.asarray(problem.lengths)

    def loss(x: Any, weights: Any, lengths: Any) -> jax.Array:
        return jnp.sum(apply(weights, x, lengths) ** 2)

    infer = jax.jit(apply)
    train = jax.jit(jax.grad(loss, argnums=(0, 1)))
    return Implementation(
        lambda: jax.block_until_ready(infer(weights, x, lengths)),
        lambda: jax.block_until_ready(train(x, weights, lengths)),
    )


def own(problem: Problem, settings: Settings) -> Implementation:
    """Return ``jaxlstm.lstm`` as one jitted call, which includes packing the weights."""
    params = {name: jnp.asarray(value, problem.dtype) for name, value in problem.params.items()}
    options: Any = {"backend": settings.backend, "precision": settings.precision}

    def apply(params: Any, x: Any, lengths: Any) -> jax.Array:
        return lstm(params, x, config=problem.config, seq_lengths=lengths, **options)[0]

    return in_jax(apply, params, problem)


def runner(problem: Problem, settings: Settings) -> Implementation:
    """Return a Runner, which packs the weights once."""
    call = compile(
        problem.params,
        problem.config,
        max_length=problem.size.time,
        max_batch=problem.size.batch,
        dtype=problem.dtype,
        backend=settings.backend,
        precision=settings.precision,  # type: ignore[arg-type]
    )
    x = jnp.asarray(problem.inputs, problem.dtype)
    return Implementation(lambda: call(x, None, problem.lengths)[0], None)


def cudnn(problem: Problem, settings: Settings) -> Implementation:
    """Return ``jaxlstm.lstm`` with ``backend="cudnn"``, beside the backend of the settings on a GPU."""
    if problem.config.proj_size:
        raise Unsupported("has no projection")
    return own(problem, settings._replace(backend="cudnn"))
