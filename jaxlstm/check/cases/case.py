"""A case: the arguments of one call by name, which a subject and its references all run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np

from jaxlstm._shared.torch_tensors import as_numpy
from jaxlstm.check.cases.results import is_array, is_floating

Array = np.ndarray


@dataclass(frozen=True)
class ArrayName:
    """The place of an array among the arguments of a model."""

    name: str


@dataclass(frozen=True)
class Case:
    """The arguments of one call, and the cotangents of its results.

    Attributes:
      name: a label for reports; empty if a report has only one case.
      arrays: the arguments by name. Those of an LSTM are ``inputs`` (time, batch, input_size), ``h_0``
        (L*D, batch, h_size) and ``c_0`` (L*D, batch, H) unless the state is zero, and ``seq_lengths``, int32
        (batch,), unless every step is valid. Those of a model are named ``args[0]`` or ``kwargs['mask']``.
      cotangents: arrays of the shapes of the results, by name.
      differentiate: if true, gradients are compared too.
      repeated: if true, a second call must return the same results.
      optional: if true, a subject may refuse the case.
      scale: the factor of the absolute limits, such as the largest c of an LSTM, which multiplies a rounding
        error of the forget gate.
      arguments: the args and kwargs of a model, with the names of its arrays in their places.
    """

    name: str
    arrays: Mapping[str, Array]
    cotangents: Mapping[str, Array] = field(default_factory=dict)
    differentiate: bool = True
    repeated: bool = False
    optional: bool = False
    scale: float = 1.0
    arguments: tuple[tuple[Any, ...], Mapping[str, Any]] = ((), {})

    @classmethod
    def of_model(cls, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Case:
        """Return a case of a model. Its arrays and tensors become NumPy arrays."""
        arrays: dict[str, Array] = {}

        def place(path: tuple[Any, ...], leaf: Any) -> Any:
            if not is_array(leaf):
                return leaf
            kind = ("args", "kwargs")[path[0].idx]
            place = ArrayName(kind + jax.tree_util.keystr(path[1:]))
            arrays[place.name] = as_numpy(leaf)
            return place

        arguments = jax.tree_util.tree_map_with_path(place, (tuple(args), dict(kwargs)))
        return cls(name, arrays, arguments=arguments, differentiate=False)

    def call(self, arrays: Mapping[str, Any] | None = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the args and kwargs of a model, with its own arrays or others by the same names."""
        given = self.arrays if arrays is None else arrays
        return jax.tree.map(
            lambda leaf: given[leaf.name] if isinstance(leaf, ArrayName) else leaf, self.arguments
        )

    def with_arrays(self, **changes: Array) -> Case:
        """Return the case with some of its arrays replaced."""
        return replace(self, arrays={**self.arrays, **changes})

    def map(self, change: Callable[[Array], Array]) -> Case:
        """Return the case with ``change`` applied to every floating-point argument."""
        return replace(self, arrays={n: change(a) if is_floating(a) else a for n, a in self.arrays.items()})

    def astype(self, dtype: Any) -> Case:
        """Return the case with every floating-point number rounded to ``dtype``."""
        cotangents = {name: a.astype(dtype) for name, a in self.cotangents.items()}
        return replace(self.map(lambda a: a.astype(dtype)), cotangents=cotangents)

    def without(self, *names: str) -> Case:
        """Return the case without some of its arrays."""
        return replace(self, arrays={n: a for n, a in self.arrays.items() if n not in names})

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shapes of the arrays."""
        return [a.shape for a in self.arrays.values()]

    @property
    def is_finite(self) -> bool:
        """True if no floating-point argument has NaN or infinity."""
        return all(bool(np.isfinite(a).all()) for a in self.arrays.values() if is_floating(a))

    @property
    def inputs(self) -> Array:
        """The inputs of an LSTM."""
        return self.arrays["inputs"]

    @property
    def initial_state(self) -> tuple[Array, Array] | None:
        """The state (h_0, c_0) of an LSTM, or None for zeros."""
        return (self.arrays["h_0"], self.arrays["c_0"]) if "h_0" in self.arrays else None

    @property
    def seq_lengths(self) -> Array | None:
        """The lengths of an LSTM's sequences, or None if every step is valid."""
        return self.arrays.get("seq_lengths")

    @property
    def valid(self) -> Array:
        """A bool mask (time, batch), true inside each sequence of an LSTM."""
        time, batch = self.inputs.shape[:2]
        lengths = np.full(batch, time) if self.seq_lengths is None else self.seq_lengths
        return np.arange(time)[:, None] < lengths[None, :]
