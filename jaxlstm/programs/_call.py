"""``call``: one operator of torch on arrays, outside of a program."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import dtypes

from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.operators.registry import Options, find_operator, refusal


def call(name: str, /, *args: Any, **kwargs: Any) -> Any:
    """Return the result of a registered operator of torch for arrays.

    Written source calls operators in this way that have no counterpart in Flax and ``jax.numpy``. The call
    is traceable and differentiable.

    >>> jaxlstm.programs.call("aten.cumsum.default", jnp.ones((2, 3)), dim=1)[0]
    Array([1., 2., 3.], dtype=float32)

    Args:
      name: torch's name with overload. An in-place operator returns its result and changes nothing.
      *args: the arguments of torch's schema: arrays, numbers, lists of them, and dtypes. Python's types stand
        for JAX's default dtypes.
      **kwargs: the same, under the schema's names.

    Returns:
      An array, or a tuple or list of arrays for an operator with several results.

    Raises:
      ProgramError: the operator is not registered, or the arguments ask for its form in training.
      TypeError: the arguments do not fit the operator.
    """
    operator = find_operator(name)
    if operator is None:
        reason = refusal(name) or "jaxlstm.programs.register_operator adds operators"
        raise ProgramError("unsupported-operator", f"{name} is not registered; {reason}")
    arguments = dict(zip(operator.signature.parameters, map(_argument, args), strict=False))
    arguments |= {key: _argument(value) for key, value in operator.arguments(kwargs).items()}
    if operator.in_training is not None and operator.in_training(arguments):
        raise ProgramError("training-mode", f"{name} must be called in evaluation mode, got {kwargs}")
    options = {"options": Options()} if operator.takes_options else {}
    return operator.function(**arguments, **options)


def _argument(value: Any) -> Any:
    """Return an argument as an operator takes it."""
    if isinstance(value, list | tuple):
        return tuple(map(_argument, value))
    if isinstance(value, np.ndarray):
        return jnp.asarray(value)
    is_default = isinstance(value, type) and value in (bool, int, float, complex)
    return dtypes.canonicalize_dtype(value) if is_default else value
