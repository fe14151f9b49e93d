"""A model in JAX as a function of parameters and arguments, and its compiled runs."""

from __future__ import annotations

import contextlib
import copy
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.check.cases.case import Array, Case, LayerRecord, Results, is_array, is_floating, named_outputs
from jaxlstm.check.exceptions import PORT_EXCEPTIONS
from jaxlstm.check.reference.jax_runs import (
    Jitted,
    depends_on_values,
    equations,
    jax_settings,
    split,
    to_numpy,
    with_gradients,
)

_BUFFERS = "buffers"
_ROUNDING = {
    *("add", "sub", "mul", "div", "dot_general", "reduce_sum"),
    *("exp", "log", "tanh", "logistic", "sqrt", "rsqrt", "pow"),
}
"""Operations whose results are rounded. Integers that a model converts to float32 are exact before them."""


@dataclass(frozen=True)
class Call:
    """A model in one dtype: ``function(arrays, args, kwargs)``, its parameters and its statistics by name."""

    function: Callable[[Mapping[str, Any], tuple[Any, ...], Mapping[str, Any]], Any]
    params: Mapping[str, Array]
    buffers: Mapping[str, Array] = field(default_factory=dict)


class JaxModel:
    """A model in JAX."""

    name: str

    def call_in(self, dtype: Any) -> Call:
        """Return the model with its parameters in ``dtype``, or as it is if ``dtype`` is None."""
        raise NotImplementedError

    def layers(self, case: Case, dtype: Any, precision: str | None) -> list[LayerRecord]:
        """Run the model and return the calls of its layers, or nothing if it has no known layers."""
        return []

    def evaluation(self) -> JaxModel | None:
        """Return the model in evaluation mode, or None if it has no modes."""
        return None


class FunctionModel(JaxModel):
    """A function of the arguments, or of parameters and the arguments."""

    def __init__(self, function: Callable[..., Any], params: Any = None) -> None:
        """Wrap ``function(*args)`` or, if ``params`` is a tree of arrays, ``function(params, *args)``."""
        self.name = getattr(function, "__name__", type(function).__name__)
        if (owner := getattr(function, "__self__", None)) is not None:
            self.name = f"{type(owner).__name__}.{self.name}"
        self._function, self._params = function, params

    def call_in(self, dtype: Any) -> Call:
        """Return the function with its parameters in ``dtype``. It keeps arrays that it closes over."""
        if self._params is None:
            return Call(lambda _, args, kwargs: self._function(*args, **kwargs), {})
        leaves, treedef = jax.tree_util.tree_flatten_with_path(self._params)
        names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
        arrays = {name: cast(np.asarray(leaf), dtype) for name, (_, leaf) in zip(names, leaves, strict=True)}
        # In Flax's variables, the other collections are not parameters.
        prefix = "params." if any(name.startswith("params.") for name in names) else ""

        def function(params: Mapping[str, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
            tree = [params.get(name.removeprefix(prefix), arrays[name]) for name in names]
            return self._function(jax.tree.unflatten(treedef, tree), *args, **kwargs)

        floating = {n: a for n, a in arrays.items() if is_floating(a)}
        params = {n.removeprefix(prefix): a for n, a in floating.items() if n.startswith(prefix)}
        return Call(function, params, {n: a for n, a in floating.items() if not n.startswith(prefix)})


def cast(array: Any, dtype: Any) -> Any:
    """Return a floating-point array in ``dtype``; other arrays, or all if ``dtype`` is None, as they are."""
    if dtype is None or not is_array(array) or not is_floating(array):
        return array
    return np.asarray(array).astype(dtype)


class ModelRunner:
    """A model in one dtype, compiled once for each shape of its arguments."""

    def __init__(
        self, model: JaxModel, example: Case, dtype: Any, *, cast_model: bool, precision: str | None
    ) -> None:
        """Prepare to run a model in ``dtype``; ``cast_model`` casts its parameters too.

        Cases may differ from ``example`` only in their arrays.
        """
        self.dtype, self.precision = np.dtype(dtype), precision
        self.finfo_dtype = self.dtype
        self._example = example
        with jax_settings(dtype, precision):
            self.call = model.call_in(dtype if cast_model else None)
            self._params = jax.device_put(dict(self.call.params))
            self._buffers = jax.device_put(dict(self.call.buffers))
        self._compiled: dict[str, Mapping[str, Array]] = {}
        quickly = cast_model  # Float64 results show the formula, whatever the compiler makes of it.
        self._forward = Jitted(self._outputs, quickly=quickly)
        self._forward_and_back = Jitted(with_gradients(self._outputs), quickly=quickly)

    def moved(self, values: Mapping[str, Array]) -> ModelRunner:
        """Return the runner with other values of some parameters and buffers, and the same functions."""
        clone = copy.copy(self)
        with jax_settings(self.dtype, self.precision):
            for name in ("_params", "_buffers"):
                arrays = getattr(self, name)
                changed = {n: values[n].astype(a.dtype) for n, a in arrays.items() if n in values}
                setattr(clone, name, {**arrays, **jax.device_put(changed)})
        return clone

    def run(self, case: Case, *, gradients: bool = False) -> Results:
        """Run the model on a case, with its floating-point arrays rounded to the dtype.

        With ``gradients``, compute the gradients of inputs and parameters for the cotangents of the case.
        """
        with jax_settings(self.dtype, self.precision):
            floating, others = self._arrays(case)
            shapes = str(case.shapes)
            # The results of a run without jit may have other shapes for other values.
            if not gradients and (shapes not in self._compiled or self._forward_and_back.is_eager):
                return Results(to_numpy(self._forward(self._params, floating, others)))
            # A function with gradients is not compiled again without them.
            cotangents = case.cotangents if gradients else self._compiled[shapes]
            results = self._forward_and_back(self._params, floating, others, dict(cotangents))
            self._compiled[shapes] = cotangents
            outputs, derived = map(to_numpy, results)
            return Results(outputs, derived if gradients else None)

    def arrays(self) -> dict[str, Array]:
        """Return the parameters and buffers by name."""
        return to_numpy({**self._params, **self._buffers})

    def attempt(self, case: Case, *, eagerly: bool) -> None:
        """Run the model for its exceptions; compute nothing if it does not depend on values."""
        with jax_settings(self.dtype, self.precision):
            arguments = self._params, *self._arrays(case)
            try:
                if not eagerly:
                    jax.eval_shape(self._outputs, *arguments)
                    return
            except PORT_EXCEPTIONS as error:
                if not depends_on_values(error):
                    raise
            self._outputs(*arguments)

    def size_of_trace(self, case: Case) -> float:
        """Return the number of operations that JAX traces for a case, infinite if it cannot trace them."""
        try:
            return sum(1 for _ in equations(self._traced(case).jaxpr))
        except PORT_EXCEPTIONS:
            return np.inf

    def constants(self, case: Case) -> list[Array]:
        """Return the floating-point arrays that a call takes from elsewhere, or raise an exception of it."""
        return [np.asarray(a) for a in self._traced(case).consts if is_array(a) and is_floating(a) and a.ndim]

    def _traced(self, case: Case) -> Any:
        with jax_settings(self.dtype, self.precision):
            return jax.make_jaxpr(self._outputs)(self._params, *self._arrays(case))

    def _arrays(self, case: Case) -> tuple[dict[str, Any], dict[str, Any]]:
        floating, others = split(case, self.dtype)
        return floating, {**others, _BUFFERS: self._buffers}

    def float32_inside(self, case: Case) -> str:
        """Return in words where a float64 run converts numbers to float32 or computes in it, if it does."""
        try:
            operations = list(dict.fromkeys(_in_float32(self._traced(case).jaxpr)))
        except PORT_EXCEPTIONS:  # Control flow that depends on values.
            return ""
        for verb in ("converts float64 to float32", "computes in float32"):
            if places := [place for action, place in operations if action == verb]:
                return f"{verb} in {', '.join(places[:3])}"
        return ""

    def _outputs(self, params: Any, floating: Any, others: Any) -> dict[str, Any]:
        args, kwargs = self._example.call({**floating, **others})
        with _finfo_of(self.finfo_dtype, self.dtype):
            return named_outputs(self.call.function({**others[_BUFFERS], **params}, args, kwargs))


@contextlib.contextmanager
def _finfo_of(own_dtype: np.dtype, dtype: np.dtype) -> Iterator[None]:
    """Let ``jnp.finfo`` tell a model about its own dtype where it runs in another."""
    finfo = jnp.finfo

    def replaced(requested: Any) -> Any:
        is_jax = sys._getframe(1).f_globals.get("__name__", "").startswith("jax.")
        return finfo(own_dtype if requested == dtype and not is_jax else requested)

    with mock.patch.object(jnp, "finfo", replaced) if own_dtype != dtype else contextlib.nullcontext():
        yield


def _in_float32(jaxpr: Any) -> Iterator[tuple[str, str]]:
    """Yield each conversion from float64 to a shorter dtype and each operation in one, and its place."""
    for equation in equations(jaxpr):
        variables = *equation.invars, *equation.outvars
        dtypes = [getattr(v.aval, "dtype", np.dtype(bool)) for v in variables]
        if not dtypes or not jnp.issubdtype(dtypes[-1], jnp.floating) or dtypes[-1] == np.float64:
            continue
        if equation.primitive.name == "convert_element_type" and dtypes[0] == np.float64:
            yield "converts float64 to float32", _place(equation)
        elif equation.primitive.name in _ROUNDING:
            yield "computes in float32", _place(equation)


def _place(equation: Any) -> str:
    """Return the file and line of an equation, outside of JAX."""
    jax_folder = str(Path(jax.__file__).parent)
    frames = getattr(equation.source_info.traceback, "frames", ())
    outside = (f for f in frames if not f.file_name.startswith(jax_folder))
    return next((f"{Path(f.file_name).name}:{f.line_num}" for f in outside), "an unknown line")
