"""Correct ports that compute differently; the checker must accept them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.layer.config import LSTMConfig
from testing.wrong_ports import WrongPort, sigmoid

Array = np.ndarray


class BiasesSwapped(WrongPort):
    def biases(self, both: tuple[Array, Array], reverse: bool) -> tuple[Array, Array]:
        return both[1], both[0]


class BiasFolded(WrongPort):
    def biases(self, both: tuple[Array, Array], reverse: bool) -> tuple[Array, Array]:
        return both[0] + both[1], np.zeros_like(both[1])


class Concatenated(WrongPort):
    """One product of [x, h, 1] with the stacked kernels."""

    def cell(self, w: dict[str, Array], x: Array, h: Array, c: Array) -> tuple[Array, Array]:
        kernel, parts = [w["ih"], w["hh"]], [x, h]
        if "bias_ih" in w:
            kernel.append((w["bias_ih"] + w["bias_hh"])[None])
            parts.append(np.ones_like(x[:, :1]))
        z = np.concatenate(parts, -1) @ np.concatenate(kernel)
        i, f, g, o = np.split(z, 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        return (h @ w["hr"] if "hr" in w else h), c


class SigmoidThroughTanh(WrongPort):
    def sigmoid(self, z: Array) -> Array:
        half = z.dtype.type(0.5)
        return half + half * np.tanh(half * z)


class SummedBackwards(WrongPort):
    def product(self, x: Array, kernel: Array) -> Array:
        return np.ascontiguousarray(x[:, ::-1]) @ np.ascontiguousarray(kernel[::-1])


class SummedOneByOne(WrongPort):
    """A running sum over the features instead of a matrix product."""

    def product(self, x: Array, kernel: Array) -> Array:
        total = np.zeros((len(x), kernel.shape[1]), x.dtype)
        for feature, row in zip(x.T, kernel, strict=True):
            total = total + feature[:, None] * row
        return total


NUMPY: tuple[Callable[[LSTMConfig], Any], ...] = (
    WrongPort,
    BiasesSwapped,
    BiasFolded,
    Concatenated,
    SigmoidThroughTanh,
    SummedBackwards,
    SummedOneByOne,
)


def unrolled(config: LSTMConfig) -> Any:
    """One layer, one direction: the input products are outside a scan that is unrolled by two."""

    @jax.jit
    def port(inputs: Any, initial_state: Any, *, params: Any) -> Any:
        hoisted = inputs @ params["weight_ih_l0"].T + params["bias_ih_l0"] + params["bias_hh_l0"]

        def step(state: Any, z: Any) -> Any:
            h, c = state
            i, f, g, o = jnp.split(z + h @ params["weight_hh_l0"].T, 4, -1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        state = initial_state[0][0], initial_state[1][0]
        (h, c), outputs = jax.lax.scan(step, state, hoisted, unroll=2)
        return outputs, (h[None], c[None])

    return port


def chunked(config: LSTMConfig) -> Any:
    """Our layer on consecutive chunks of time, each from the last state of the previous one."""
    from jaxlstm.functional import lstm

    def port(inputs: Any, initial_state: Any, *, params: Any) -> Any:
        outputs, state = [], initial_state
        for start in range(0, len(inputs), 50):
            y, state = lstm(params, inputs[start : start + 50], state, config=config)
            outputs.append(y)
        return jnp.concatenate(outputs), tuple(state)

    return port
