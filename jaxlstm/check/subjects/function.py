"""A model under test as a function of parameters and arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import numpy as np

from jaxlstm.check.cases.case import Case
from jaxlstm.check.cases.results import LayerRecord, is_array, is_floating

Array = np.ndarray


@dataclass(frozen=True)
class Call:
    """A model in one dtype: ``function(params, args, kwargs)`` and its parameters by name."""

    function: Callable[[Mapping[str, Any], tuple[Any, ...], Mapping[str, Any]], Any]
    params: Mapping[str, Array]


class CheckedModel(Protocol):
    """A model under test."""

    @property
    def name(self) -> str:
        """The name of the model in reports."""
        ...

    def call_in(self, dtype: Any) -> Call:
        """Return the model with its parameters in ``dtype``, or as it is if ``dtype`` is None."""
        ...

    def layers(self, case: Case, dtype: Any, precision: str | None) -> list[LayerRecord]:
        """Run the model and return the calls of its layers, or nothing if it has no known layers."""
        ...

    def evaluation(self) -> CheckedModel | None:
        """Return the model in evaluation mode, or None if it has no modes."""
        ...


class FunctionModel:
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

        params = {n: a for n, a in arrays.items() if n.startswith(prefix) and is_floating(a)}
        return Call(function, {name.removeprefix(prefix): a for name, a in params.items()})

    def layers(self, case: Case, dtype: Any, precision: str | None) -> list[LayerRecord]:
        """Return nothing: a function has no layers."""
        return []

    def evaluation(self) -> None:
        """Return None: a function has no modes."""


def cast(array: Any, dtype: Any) -> Any:
    """Return a floating-point array in ``dtype``; other arrays, or all if ``dtype`` is None, as they are."""
    if dtype is None or not is_array(array) or not is_floating(array):
        return array
    return np.asarray(array).astype(dtype)
