"""Functions of JAX in one dtype, compiled once for each shape, and their settings."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.errors import (
    ConcretizationTypeError,
    NonConcreteBooleanIndexError,
    TracerArrayConversionError,
    TracerIntegerConversionError,
)
from jax.extend.core import Literal

from jaxlstm._shared.jaxprs import equations
from jaxlstm.check.cases.case import Array, Case, is_floating
from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.sizes.prefix import UnprovenError

_UNKNOWN = (
    ConcretizationTypeError,
    NonConcreteBooleanIndexError,
    TracerArrayConversionError,
    TracerIntegerConversionError,
    UnprovenError,
)
# JAX's texts for bounds and shapes that are traced numbers, whose types tell nothing.
_BOUNDS = ("Slice entries must be static integers", "Shapes must be 1D sequences of concrete values")


def default_device() -> Any:
    """Return the device that JAX uses by default."""
    config: Any = jax.config
    device = config.jax_default_device
    if isinstance(device, str):  # The name of a platform.
        return jax.devices(device)[0]
    return device or jax.devices()[0]


def lacks_float64(device: Any) -> bool:
    """Return True if the device emulates float64 with less precision. A TPU combines two float32."""
    return device.platform == "tpu"


@contextlib.contextmanager
def jax_settings(dtype: Any, precision: str | None) -> Iterator[None]:
    """Set the precision of products, and for float64 the 64-bit mode and a device that has it."""
    with contextlib.ExitStack() as stack:
        if np.dtype(dtype) == np.float64:
            stack.enter_context(jax.enable_x64(True))
            if lacks_float64(default_device()):
                stack.enter_context(jax.default_device(jax.devices("cpu")[0]))
        if precision is not None:  # It applies to the products of a port that sets no precision.
            stack.enter_context(jax.default_matmul_precision(precision))
        yield


def split(case: Case, dtype: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the floating-point arrays of a case on the device, in ``dtype``, and the others."""
    # jnp.asarray of a NumPy array would compile a program for each new shape.
    arrays = jax.device_put(dict(case.astype(dtype).arrays))
    floating = {name: a for name, a in arrays.items() if is_floating(a)}
    return floating, {name: a for name, a in arrays.items() if name not in floating}


def with_gradients(function: Callable[..., dict[str, Any]]) -> Callable[..., Any]:
    """Return the function that returns the outputs, and the gradients of the parameters and the arrays.

    Both take ``(params, floating, others)``; the returned one takes the cotangents of the outputs too.
    """

    def outputs_and_gradients(params: Any, floating: Any, others: Any, cotangents: Any) -> Any:
        def real_outputs(params: Any, floating: Any) -> tuple[dict[str, Any], dict[str, Any]]:
            outputs = function(params, floating, others)
            return {n: a for n, a in outputs.items() if hasattr(a, "dtype") and is_floating(a)}, outputs

        real, pull_back, outputs = jax.vjp(real_outputs, params, floating, has_aux=True)
        real_cotangents = {
            n: _padded(cotangents[n].astype(a.dtype), a.shape) if n in cotangents else jnp.zeros_like(a)
            for n, a in real.items()
        }
        d_params, d_inputs = pull_back(real_cotangents)
        return outputs, {**d_inputs, **d_params}

    return outputs_and_gradients


def _padded(cotangent: Any, shape: tuple[int, ...]) -> Any:
    """Return a cotangent with zeros for the padding that torch cuts off."""
    if cotangent.shape == shape or cotangent.ndim != len(shape):
        return cotangent
    return jnp.pad(cotangent, [(0, max(n - m, 0)) for n, m in zip(shape, cotangent.shape, strict=True)])


SMALL = 10**5
"""Number of elements of the arguments up to which compiling takes much longer than running."""


_COMPARISONS = {"eq", "ne", "lt", "le", "gt", "ge"}


class Jitted:
    """A jitted function, which runs eagerly if its control flow depends on values.

    ``quickly`` compiles it for small arguments without optimizations, which half of the time goes into,
    unless it compares computed numbers. ``is_eager`` is true after a run without ``jit``.
    """

    def __init__(self, function: Callable[..., Any], *, quickly: bool = False) -> None:
        self._function, self._quickly, self.is_eager = function, quickly, False
        self._optimized, self._quick = (
            jax.jit(function, compiler_options=o) for o in ({}, {"xla_backend_optimization_level": 0})
        )

    def __call__(self, *args: Any) -> Any:
        """Call the function."""
        try:
            return (self._quick if self._quickly and self._is_quick(args) else self._optimized)(*args)
        except (*_UNKNOWN, ProgramError, IndexError, TypeError) as error:
            if not depends_on_values(error):
                raise
            self.is_eager = True
            return self._function(*args)

    def _is_quick(self, args: tuple[Any, ...]) -> bool:
        """Return True for small arguments of a function whose results need no optimizations.

        XLA may compute a number once for each of its uses. Only with optimizations, LLVM rounds a product and
        a sum in the same way each time; without them no element may equal the maximum of all.
        """
        is_small = sum(np.size(leaf) for leaf in jax.tree.leaves(args)) <= SMALL
        return is_small and not _compares(self._quick.trace(*args).jaxpr.jaxpr)


def _compares(jaxpr: Any) -> bool:
    """Return True if a function compares floating-point numbers of which none is a constant."""
    for equation in equations(jaxpr):
        if equation.primitive.name in _COMPARISONS:
            operands = {v for v in equation.invars if not isinstance(v, Literal)}
            if len(operands) == 2 and all(is_floating(v.aval) for v in operands):
                return True
    return False


def depends_on_values(error: Exception) -> bool:
    """Return True for an error of a function that JAX cannot trace, because it depends on values."""
    is_bound = str(error).startswith(_BOUNDS) and "Tracer" in str(error)
    return is_bound or isinstance(error, _UNKNOWN) or isinstance(error.__cause__, _UNKNOWN)


def to_numpy(arrays: Mapping[str, Any]) -> dict[str, Array]:
    """Return the arrays as NumPy arrays."""
    return {name: np.asarray(a) for name, a in arrays.items()}
