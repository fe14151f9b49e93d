"""A Flax NNX model under test: its parameters by path, and a copy of it in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxlstm.check.model.ours import Call, cast


class FlaxModel:
    """An NNX module under test. Nothing changes the caller's module."""

    def __init__(self, module: nnx.Module, call: Callable[..., Any] | None = None) -> None:
        """Wrap a module; ``call(module, *args, **kwargs)`` replaces ``module(*args, **kwargs)``."""
        self.name = type(module).__name__
        self._module = module
        self._call = call or (lambda module, *args, **kwargs: module(*args, **kwargs))

    def call_in(self, dtype: Any) -> Call:
        """Return the module with its floating-point variables and its dtype attributes in ``dtype``."""
        graph, params, rest = nnx.split(self.copy(dtype), _is_parameter, ...)
        leaves, treedef = jax.tree.flatten(params)
        names = list(dict(_named(params)))

        def function(params: Mapping[str, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
            state = jax.tree.unflatten(treedef, [params[name] for name in names])
            return self._call(nnx.merge(graph, state, rest, copy=True), *args, **kwargs)

        return Call(function, dict(zip(names, map(np.asarray, leaves), strict=True)))

    def copy(self, dtype: Any) -> nnx.Module:
        """Return a copy of the module in ``dtype``, or as it is if ``dtype`` is None."""
        graph, state = nnx.split(self._module)
        module = nnx.merge(graph, jax.tree.map(lambda a: cast(a, dtype), state), copy=True)
        if dtype is not None:
            for _, submodule in nnx.iter_modules(module):
                _set_dtypes(submodule, dtype)
        return module


def is_flax_module(model: Any) -> bool:
    """Return True for an NNX module."""
    return isinstance(model, nnx.Module)


def _is_parameter(path: Any, leaf: Any) -> bool:
    """Return True for Params and for bare arrays, such as the scales of WeightNorm."""
    return isinstance(leaf, nnx.Param) or (not isinstance(leaf, nnx.Variable) and _is_floating(leaf))


def _is_floating(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and bool(jnp.issubdtype(leaf.dtype, jnp.floating))


def _named(state: Any) -> list[tuple[str, Any]]:
    """Return the variables of a state with their attribute paths."""
    return [(".".join(map(_step, path)), leaf) for path, leaf in nnx.to_flat_state(state)]


def _step(key: Any) -> str:
    return ".".join(map(str, key)) if isinstance(key, tuple) else str(key)


def _set_dtypes(module: nnx.Module, dtype: Any) -> None:
    """Replace every floating-point dtype among the attributes of a module."""
    for name, value in vars(module).items():
        if isinstance(value, (type, np.dtype)) and jnp.issubdtype(value, jnp.floating):
            setattr(module, name, jnp.dtype(dtype))
