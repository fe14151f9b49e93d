"""torch's type promotion, and the dtypes that JAX holds under its present configuration.

torch has int64 wherever JAX without its 64-bit mode has int32. Without that mode, int64 becomes int32
throughout a program; values that do not fit are refused where they are known. float64 is refused.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jax import Array, dtypes

from jaxlstm.layer.precision import gate_dtype
from jaxlstm.programs.errors import ProgramError

Operand = Any  # a Array or a Python number
_default_float: ContextVar[type] = ContextVar("default_float", default=np.float32)


def default_float() -> np.dtype:
    """Return the dtype of new floats, as `torch.get_default_dtype` had it for the present node."""
    return np.dtype(_default_float.get())


@contextmanager
def doubles_by_default(is_double: bool) -> Iterator[None]:
    """Let new floats be float64 for a node whose recorded result is."""
    token = _default_float.set(np.float64 if is_double else np.float32)
    try:
        yield
    finally:
        _default_float.reset(token)


def held(dtype: Any, subject: str = "a tensor of the program") -> np.dtype:
    """Return the dtype in which JAX holds a torch dtype: int32 for int64 without the 64-bit mode."""
    dtype = np.dtype(dtype)
    if dtype in (np.float64, np.complex128) and not jax.config.read("jax_enable_x64"):
        raise ProgramError(
            "tensor-dtype",
            f"{subject} is {dtype}, but JAX's 64-bit mode is off. Turn it on with "
            "jax.config.update('jax_enable_x64', True) or JAX_ENABLE_X64=1",
        )
    return np.dtype(dtypes.canonicalize_dtype(dtype))


def to_held(values: np.ndarray, subject: str) -> Array:
    """Return a NumPy array as a JAX array; integers that do not fit into 32 bits are refused, not wrapped."""
    # Unlike jnp.asarray, this compiles nothing; the copy keeps the result apart from the caller's memory.
    return jax.device_put(np.array(values, held_without_loss(values, subject)))


def held_without_loss(values: np.ndarray, subject: str) -> np.dtype:
    """Return the dtype in which JAX holds an array; integers that do not fit into 32 bits are refused."""
    dtype = held(values.dtype, subject)
    if dtype != values.dtype and values.size:
        limits = np.iinfo(dtype)
        if values.min() < limits.min or values.max() > limits.max:
            raise ProgramError(
                "tensor-dtype",
                f"{subject} is {values.dtype} and holds values outside of {dtype}, which JAX uses unless its "
                "64-bit mode is on. Turn it on with jax.config.update('jax_enable_x64', True)",
            )
    return dtype


def is_scalar(operand: Operand) -> bool:
    """Return True for a Python number, which torch calls a wrapped number, and for a symbolic size."""
    return isinstance(operand, bool | int | float | complex) or jax.export.is_symbolic_dim(operand)


def dtype_of(operand: Operand) -> np.dtype:
    """Return the dtype of an array, or the dtype that torch gives to a Python number."""
    if not is_scalar(operand):
        return np.dtype(operand.dtype)
    if isinstance(operand, bool):
        return np.dtype(bool)
    if not isinstance(operand, float | complex):
        return np.dtype(dtypes.canonicalize_dtype(np.int64))
    real = default_float()
    return np.result_type(real, np.complex64) if isinstance(operand, complex) else real


def result_type(*operands: Operand) -> np.dtype:
    """Return torch's result dtype of an elementwise operator.

    Arrays with axes decide; arrays without axes count only if they are of a higher category (bool, integer,
    float, complex), and Python numbers only if theirs is higher again.
    """
    return promoted_type(operands)


def promoted_type(operands: Iterable[Any]) -> np.dtype:
    """Return torch's result dtype of arrays, numbers, or types of tensors."""
    by_priority: tuple[list[np.dtype], ...] = [], [], []
    for operand in operands:
        by_priority[0 if is_scalar(operand) else 1 + bool(operand.shape)].append(dtype_of(operand))
    result, *higher = (functools.reduce(jnp.promote_types, dtypes) for dtypes in by_priority if dtypes)
    for dtype in higher:
        result = dtype if category(dtype) >= category(result) else jnp.promote_types(dtype, result)
    return np.dtype(result)


def promoted(*operands: Operand) -> list[Array]:
    """Return the operands as arrays of their common dtype."""
    dtype = result_type(*operands)
    return [as_array(operand, dtype) for operand in operands]


def promoted_floats(*operands: Operand) -> list[Array]:
    """Return the operands as arrays of their common dtype, integers as float32."""
    dtype = float_type(result_type(*operands))
    return [as_array(operand, dtype) for operand in operands]


def as_float(x: Array) -> Array:
    """Return a float array unchanged, and an integer or bool array as float32."""
    return x.astype(float_type(x.dtype))


def float_type(dtype: Any) -> np.dtype:
    """Return the dtype in which torch computes a function of real numbers: float32 for integers."""
    return np.dtype(dtype) if jnp.issubdtype(dtype, jnp.inexact) else default_float()


def in_float32(function: Callable[..., Array]) -> Callable[..., Array]:
    """Decorate a function of an array: half precision is converted to float32 and back."""

    @functools.wraps(function)
    def wrapper(self: Array, *args: Any, **kwargs: Any) -> Array:
        if not is_float(self):
            return function(self, *args, **kwargs)
        return function(self.astype(gate_dtype(self.dtype)), *args, **kwargs).astype(self.dtype)

    return wrapper


def sum_type(x: Array, dtype: Any = None) -> np.dtype:
    """Return the dtype of a sum: ``dtype`` if given, int64 for integers and bools, else ``x.dtype``."""
    if dtype is not None:
        return held(dtype)
    return np.dtype(x.dtype) if jnp.issubdtype(x.dtype, jnp.inexact) else held(np.int64)


def as_array(operand: Operand, dtype: Any) -> Array:
    """Return an operand as an array of a dtype.

    As in torch, a negative number wraps in an unsigned dtype: -3 is 253 in uint8.
    """
    if jax.export.is_symbolic_dim(operand):
        return jnp.asarray(operand).astype(dtype)
    if is_scalar(operand):
        if np.dtype(dtype).kind == "u" and -np.iinfo(dtype).max <= operand < 0:
            operand += np.iinfo(dtype).max + 1
        return jnp.asarray(operand, dtype)
    return operand.astype(dtype)


def converted(x: Array, dtype: Any) -> Array:
    """Return an array in a dtype.

    As in torch, complex numbers lose their imaginary part, and floats wrap in integers of 8 and 16 bits.
    """
    loses_it = jnp.iscomplexobj(x) and not (jnp.issubdtype(dtype, jnp.complexfloating) or dtype == np.bool_)
    x = x.real if loses_it else x
    if is_float(x) and is_integer(dtype) and (size := np.dtype(dtype).itemsize) < 4:
        # torch goes through int64 for uint8 and int32 for others; beyond them all bits are 0.
        truncated = jnp.trunc(x.astype(gate_dtype(x.dtype)))
        in_range = jnp.abs(truncated) < 2.0 ** (63 if dtype == np.uint8 else 31)
        x = jnp.where(in_range, jnp.fmod(truncated, 2 ** (8 * size)), 0).astype(np.int32)
    return x.astype(dtype)


def is_float(x: Any) -> bool:
    """Return True for an array or dtype of real floating-point numbers."""
    return jnp.issubdtype(getattr(x, "dtype", x), jnp.floating)


def is_integer(x: Any) -> bool:
    """Return True for an array or dtype of integers, bool excluded."""
    return jnp.issubdtype(getattr(x, "dtype", x), jnp.integer)


def category(dtype: np.dtype) -> int:
    """Return the rank of a dtype among bool, integers, real and complex numbers."""
    kinds = (jnp.bool_, jnp.integer, jnp.floating, jnp.complexfloating)
    return next(rank for rank, kind in enumerate(kinds) if jnp.issubdtype(dtype, kind))
