"""Tensors made of a shape and numbers."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxlstm.programs.operators.dtypes import Operand, as_array, default_float, dtype_of, held, is_integer
from jaxlstm.programs.operators.registry import refuse_operators, register_family, register_operator

refuse_operators(
    "it draws random numbers, which JAX cannot reproduce; pass the random tensor as an argument of forward, "
    "or draw it only if self.training",
    *("rand", "randn", "randint", "rand_like", "randn_like", "randint_like", "randperm", "random"),
    *("normal", "normal_functional", "uniform", "bernoulli", "exponential", "cauchy", "log_normal"),
    *("geometric", "multinomial", "poisson", "binomial", "_standard_gamma", "_sample_dirichlet"),
)


@register_operator("aten.full.default", creates=True)
def full(size: Sequence[int], fill_value: Operand, dtype: Any = None) -> Array:
    """Return a number in a shape."""
    dtype = held(dtype_of(fill_value) if dtype is None else dtype)
    return jnp.broadcast_to(as_array(fill_value, dtype), tuple(size))


def _filled(number: int, size: Sequence[int], dtype: Any = None) -> Array:
    return full(size, number, dtype or default_float())


def _filled_like(number: int, self: Array, dtype: Any = None) -> Array:
    return full(self.shape, number, dtype or self.dtype)


def _filled_new(number: int, self: Array, size: Sequence[int], dtype: Any = None) -> Array:
    return full(size, number, dtype or self.dtype)


# torch.empty gives zeros, too.
register_family(_filled, {"zeros": 0, "ones": 1}, creates=True)
register_family(_filled, {"empty": 0}, "memory_format", creates=True)
register_family(_filled_like, {"zeros_like empty_like zero": 0, "ones_like": 1})
register_family(_filled_new, {"new_zeros new_empty": 0, "new_ones": 1})


@register_operator("aten.scalar_tensor.default", creates=True)
def scalar_tensor(s: Operand, dtype: Any = None) -> Array:
    """Return a number as a tensor without axes, by default float32."""
    return full((), s, dtype or default_float())


@register_operator("aten.full_like.default")
def full_like(self: Array, fill_value: Operand, dtype: Any = None) -> Array:
    """Return a number in the shape of a tensor."""
    return full(self.shape, fill_value, dtype or self.dtype)


@register_operator("aten.new_full.default")
def new_full(self: Array, size: Sequence[int], fill_value: Operand, dtype: Any = None) -> Array:
    """Return a number in a shape and the dtype of a tensor."""
    return full(size, fill_value, dtype or self.dtype)


@register_operator("aten.arange.default", "aten.arange.start", "aten.arange.start_step", creates=True)
def arange(end: Operand, start: Operand = 0, step: Operand = 1, dtype: Any = None) -> Array:
    """Return numbers from ``start`` to below ``end``: int64 for integers, else float32."""
    bounds = (start, end, step)
    integral = all(isinstance(bound, int) or jax.export.is_symbolic_dim(bound) for bound in bounds)
    dtype = held(dtype or (np.int64 if integral else default_float()))
    if any(map(jax.export.is_symbolic_dim, bounds)):
        places = jax.lax.iota(held("int64"), -((start - end) // step))
        return (start + step * places).astype(dtype)
    if is_integer(dtype):
        start, end, step, integral = int(start), int(end), int(step), True
    count = -((start - end) // step) if integral else math.ceil((end - start) / step)
    if count < 0:
        raise ValueError(f"arange from {start} to {end} needs a step of the other sign, got {step}")
    # As in torch, each element is rounded once.
    return jnp.asarray((start + step * np.arange(count)).astype(dtype))


@register_operator("aten.linspace.default", creates=True)
def linspace(start: float, end: float, steps: int, dtype: Any = None) -> Array:
    """Return evenly spaced numbers, both ends included."""
    dtype = held(dtype or default_float())
    if is_integer(dtype):
        raise NotImplementedError("linspace of integers, whose rounding torch leaves to the device")
    xp = jnp if isinstance(start, Tracer) or isinstance(end, Tracer) else np
    return jnp.asarray(xp.linspace(start, end, steps).astype(dtype))


@register_operator("aten.eye.default", "aten.eye.m", creates=True)
def eye(n: int, m: int | None = None, dtype: Any = None) -> Array:
    """Return ones on the diagonal of a matrix, zeros elsewhere."""
    return jnp.eye(n, m, dtype=held(dtype or default_float()))


def _window(factors: Sequence[float], window_length: int, periodic: bool = True, dtype: Any = None) -> Array:
    """Return a window that is a sum of cosines, with alternating signs."""
    period = window_length if periodic else window_length - 1
    angles = np.arange(window_length) * (2 * np.pi / max(period, 1))
    terms = [(-1) ** k * factor * np.cos(k * angles) for k, factor in enumerate(factors)]
    window = np.sum(terms, axis=0) if window_length > 1 else np.ones(window_length)
    return jnp.asarray(window.astype(held(dtype or default_float())))


_FACTORS = {"hann_window": (0.5, 0.5), "blackman_window": (0.42, 0.5, 0.08)}
register_family(_window, _FACTORS, "default periodic", creates=True)


@register_operator(
    *(
        f"aten.hamming_window.{kind}"
        for kind in ("default", "periodic", "periodic_alpha", "periodic_alpha_beta")
    ),
    creates=True,
)
def hamming_window(
    window_length: int, periodic: bool = True, alpha: float = 0.54, beta: float = 0.46, dtype: Any = None
) -> Array:
    """Return the Hamming window."""
    return _window((alpha, beta), window_length, periodic, dtype)
