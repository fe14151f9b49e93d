"""The parser for compiled programs, on programs compiled for the CPU."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from testing.aot.hlo import Hlo

X, W = jnp.ones((6, 3, 4)), jnp.ones((4, 4))


def compiled(function: Any, *arguments: Any) -> Hlo:
    text = jax.jit(function).lower(*arguments).compile().as_text()
    assert text is not None
    return Hlo(text)


def simple_rnn(w_x: jax.Array, w_h: jax.Array, x: jax.Array, hoisted: bool) -> jax.Array:
    def step(h: jax.Array, x_t: jax.Array) -> tuple[jax.Array, jax.Array]:
        h = jnp.tanh((x_t if hoisted else x_t @ w_x) + h @ w_h)
        return h, h

    return lax.scan(step, jnp.zeros((3, 4)), x @ w_x if hoisted else x)[1]


def test_products_in_loops() -> None:
    """JAX's derivative of a scan computes h_t^T dz_t in the loop, although no step needs it."""
    inside = compiled(lambda *a: simple_rnn(*a, hoisted=False), W, W, X)
    assert (len(inside.products()), inside.products_in_loops()) == (2, 2)
    outside = compiled(lambda *a: simple_rnn(*a, hoisted=True), W, W, X)
    assert (len(outside.products()), outside.products_in_loops()) == (2, 1)
    loss = lambda w, x: simple_rnn(w, w, x, hoisted=True).sum()  # noqa: E731
    assert compiled(jax.grad(loss), W, X).products_in_loops() == 3  # h W_hh, dz W_hh^T and h^T dz


def test_precision() -> None:
    for name in ("highest", "high", "default"):
        product = lambda a, b, name=name: jnp.matmul(a, b, precision=name)  # noqa: E731
        program = compiled(product, jnp.ones((300, 400)), jnp.ones((400, 500)))
        assert [parsed.precision for parsed in program.products()] == [name]
        assert program.products_in_loops() == 0
