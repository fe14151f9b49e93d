"""A Flax model under test: its parameters by path, its layers, and a copy of it in float64."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx
from flax.errors import FlaxError, ScopeCollectionNotFound
from jax.core import Tracer

from jaxlstm.check.cases.case import Case, LayerRecord, is_array, is_floating
from jaxlstm.check.exceptions import PORT_EXCEPTIONS
from jaxlstm.check.reference.jax_model import Call, FunctionModel, JaxModel, cast
from jaxlstm.check.reference.jax_runs import jax_settings

_PATH = "_jaxlstm_path"
"""The attribute that holds the path of a module whose calls are recorded."""


class FlaxModel(JaxModel):
    """An NNX module under test. Nothing changes the caller's module."""

    def __init__(self, module: nnx.Module, call: Callable[..., Any] | None = None) -> None:
        """Wrap a module; ``call(module, *args, **kwargs)`` replaces ``module(*args, **kwargs)``."""
        self.name = type(module).__name__
        self._module = module
        self._call = call or (lambda module, *args, **kwargs: module(*args, **kwargs))

    def call_in(self, dtype: Any) -> Call:
        """Return the module with its floating-point variables and its dtype attributes in ``dtype``."""
        graph, *states, rest = nnx.split(self.copy(dtype), _is_parameter, _is_number, ...)
        flat = [jax.tree.flatten(state) for state in states]
        names = [[".".join(map(_step, path)) for path, _ in nnx.to_flat_state(state)] for state in states]

        def function(arrays: Mapping[str, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
            new_states = (
                jax.tree.unflatten(treedef, [arrays[name] for name in part])
                for part, (_, treedef) in zip(names, flat, strict=True)
            )
            return self._call(nnx.merge(graph, *new_states, rest, copy=True), *args, **kwargs)

        params, buffers = (
            dict(zip(part, map(np.asarray, leaves), strict=True))
            for part, (leaves, _) in zip(names, flat, strict=True)
        )
        return Call(function, params, buffers)

    def layers(self, case: Case, dtype: Any, precision: str | None) -> list[LayerRecord]:
        """Run a copy eagerly and return every call of a submodule, in the order in which they return.

        Without ``jit``, scans run as loops. Calls that JAX traces all the same, as in ``vmap``, are left out.
        """
        records = list[LayerRecord]()
        with jax_settings(dtype, precision), jax.disable_jit():
            module = self.copy(dtype if dtype == np.float64 else None)

            def keep(layer: Any, args: Any, kwargs: Any, returned: Any) -> None:
                inputs, outputs = _concrete_arrays((args, kwargs)), _concrete_arrays(returned)
                path = vars(layer).get(_PATH)
                if path is not None and inputs is not None and outputs is not None:
                    records.append(LayerRecord(path, type(layer).__name__, inputs, outputs))

            classes = {type(m) for _, m in nnx.iter_modules(module) if callable(m)}
            recording = {cls: _recording_class(cls, keep) for cls in classes}
            for path, submodule in list(nnx.iter_modules(module)):
                if callable(submodule):
                    # Transformations of NNX call copies, which keep static attributes.
                    object.__setattr__(submodule, _PATH, ".".join(map(str, path)))
                    object.__setattr__(submodule, "__class__", recording[type(submodule)])
            args, kwargs = case.call(jax.device_put(dict(case.astype(dtype).arrays)))
            with contextlib.suppress(*PORT_EXCEPTIONS):  # The item "runs" reports them.
                self._call(module, *args, **kwargs)
        return records

    def evaluation(self) -> FlaxModel:
        """Return the model in evaluation mode: running averages, and no dropout."""
        module = self.copy(None)
        module.eval()
        return FlaxModel(module, self._call)

    def copy(self, dtype: Any) -> nnx.Module:
        """Return a copy of the module in ``dtype``, or as it is if ``dtype`` is None."""
        graph, state = nnx.split(self._module)
        if dtype is not None:  # A module that updates a buffer would write into a NumPy array.
            state = jax.tree.map(lambda a: jax.device_put(cast(a, dtype)) if is_array(a) else a, state)
        module = nnx.merge(graph, state, copy=True)
        if dtype is not None:
            for _, submodule in nnx.iter_modules(module):
                _set_dtypes(submodule, dtype)
                if getattr(submodule, "attention_fn", None) is nnx.dot_product_attention:
                    submodule.attention_fn = _attention_in_its_dtype  # type: ignore[attr-defined]
        return module


class LinenFunction(FunctionModel):
    """A function that may call Linen modules, whose layers Flax reports."""

    def call_in(self, dtype: Any) -> Call:
        """Return the function with its parameters in ``dtype``. Flax's own exceptions become ValueErrors."""
        call = super().call_in(dtype)

        def function(params: Mapping[str, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
            try:
                return call.function(params, args, kwargs)
            except FlaxError as error:
                raise ValueError(_flax_message(error)) from error

        return Call(function, call.params, call.buffers)

    def layers(self, case: Case, dtype: Any, precision: str | None) -> list[LayerRecord]:
        """Run the function and return every call of a Linen module, in the order in which they return."""
        records = list[LayerRecord]()

        def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            returned = call(*args, **kwargs)
            inputs, outputs = _concrete_arrays((args, kwargs)), _concrete_arrays(returned)
            if context.method_name == "__call__" and inputs is not None and outputs is not None:
                module = context.module
                records.append(LayerRecord(".".join(module.path), type(module).__name__, inputs, outputs))
            return returned

        with jax_settings(dtype, precision), linen.intercept_methods(intercept):
            call = self.call_in(dtype if dtype == np.float64 else None)
            args, kwargs = case.call(jax.device_put(dict(case.astype(dtype).arrays)))
            with contextlib.suppress(*PORT_EXCEPTIONS):  # The item "runs" reports them.
                call.function(jax.device_put({**call.buffers, **call.params}), args, kwargs)
        return records


def _flax_message(error: FlaxError) -> str:
    """Return Flax's message, and what to pass if a collection is missing."""
    message = f"{type(error).__name__}: {error}"
    if isinstance(error, ScopeCollectionNotFound):
        hint = "the function needs every collection that init returns, such as batch_stats"
        message = f"{hint}: params={{'params': ..., 'batch_stats': ...}}. {message}"
    return message


def _is_parameter(path: Any, leaf: Any) -> bool:
    """Return True for Params and for bare arrays, such as the scales of WeightNorm."""
    return isinstance(leaf, nnx.Param) or (
        not isinstance(leaf, nnx.Variable) and hasattr(leaf, "dtype") and is_floating(leaf)
    )


def _is_number(path: Any, leaf: Any) -> bool:
    """Return True for the other variables of floating-point numbers, such as running statistics."""
    return hasattr(leaf, "dtype") and is_floating(leaf)


def _step(key: Any) -> str:
    return ".".join(map(str, key)) if isinstance(key, tuple) else str(key)


def _set_dtypes(module: nnx.Module, dtype: Any) -> None:
    """Replace every floating-point dtype among the attributes of a module."""
    for name, value in vars(module).items():
        if isinstance(value, (type, np.dtype)) and jnp.issubdtype(value, jnp.floating):
            setattr(module, name, jnp.dtype(dtype))


def _attention_in_its_dtype(*args: Any, module: Any = None, **kwargs: Any) -> Any:
    """Attend without ``jax.nn.dot_product_attention``, whose softmax is always in float32.

    Flax avoids that function if a module records the weights; without one, they are dropped.
    """
    recorder: Any = module or SimpleNamespace(sow=lambda *args: None)
    return nnx.dot_product_attention(*args, module=recorder, **kwargs)


def _recording_class(cls: type, keep: Callable[[Any, Any, Any, Any], None]) -> type:
    """Return a subclass whose calls are recorded."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        returned = cls.__call__(self, *args, **kwargs)  # type: ignore[operator]
        keep(self, args, kwargs, returned)
        return returned

    return type(cls.__name__, (cls,), {"__call__": call, "__module__": cls.__module__})


def _concrete_arrays(tree: Any) -> tuple[np.ndarray, ...] | None:
    """Return copies of the arrays of a tree, or None if JAX traces one of them."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, (jax.Array, np.ndarray))]
    if any(isinstance(leaf, Tracer) for leaf in leaves):
        return None
    return tuple(np.asarray(leaf) for leaf in leaves if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))
