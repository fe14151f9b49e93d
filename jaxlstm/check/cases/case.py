"""A test case and its results, whatever ran it: arrays and gradients by name, and the calls of layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm._shared.torch_tensors import as_numpy

Array = np.ndarray


@dataclass(frozen=True)
class Results:
    """The outputs of a call by name, and its gradients by the name of an argument or parameter.

    An LSTM returns ``outputs``, ``h_n`` and ``c_n``; an implementation may lack the last two. ``gradients``
    is None if they were not computed.
    """

    outputs: Mapping[str, Array]
    gradients: Mapping[str, Array] | None = None

    def arrays(self) -> dict[str, Array]:
        """Return every array by name, with the gradient of ``x`` under ``d x``."""
        return dict(self.outputs) | {f"d {name}": a for name, a in (self.gradients or {}).items()}

    def astype(self, dtype: Any) -> Results:
        """Return the results rounded to ``dtype``."""
        gradients = self.gradients and {name: a.astype(dtype) for name, a in self.gradients.items()}
        return Results({name: a.astype(dtype) for name, a in self.outputs.items()}, gradients)

    @property
    def is_finite(self) -> bool:
        """True if no output has NaN or infinity."""
        return all(bool(np.isfinite(a.astype(np.float64)).all()) for a in self.outputs.values())


@dataclass(frozen=True)
class LayerRecord:
    """One call of a module: its path, its type, and the arrays that it received and returned.

    Attributes:
      ragged: the length of the longest sequence if torch packed sequences in this call or before it, else 0.
        Packed arrays end there, with NaN in the padding.
    """

    path: str
    kind: str
    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]
    ragged: int = 0


def is_array(leaf: Any) -> bool:
    """Return True for a NumPy array, a JAX array or a torch tensor."""
    return isinstance(leaf, (np.ndarray, jax.Array)) or hasattr(leaf, "detach")


def is_floating(array: Any) -> bool:
    """Return True if an array has a floating-point dtype, bfloat16 included."""
    return bool(jnp.issubdtype(array.dtype, jnp.floating))


def is_discrete(array: Any) -> bool:
    """Return True for numbers such as a mask's or counts, on which a model may decide: whole 256ths."""
    return bool((np.rint(np.asarray(array, np.float64) * 256) == np.asarray(array, np.float64) * 256).all())


def named_outputs(returned: Any, name: str = "outputs") -> dict[str, Any]:
    """Return the leaves of dicts, tuples and lists by name, such as ``outputs[1][0]``; None is dropped.

    A complex array is two leaves.
    """
    if returned is None:
        return {}
    if "complex" in str(getattr(returned, "dtype", "")):
        return {f"{name}.real": returned.real, f"{name}.imag": returned.imag}
    if isinstance(returned, Mapping):
        entries = [(f"{name}[{key!r}]", value) for key, value in returned.items()]
    elif isinstance(returned, (tuple, list)):
        entries = [(f"{name}[{k}]", value) for k, value in enumerate(returned)]
    else:
        return {name: returned}
    return {path: leaf for entry, value in entries for path, leaf in named_outputs(value, entry).items()}


def worst_error(actual: Array, expected: Array) -> tuple[float, tuple[int, ...]]:
    """Return the largest absolute error where the expected value is finite, and its index.

    A NaN in ``actual`` counts as an infinite error. The index of an empty array is ``()``.
    """
    a, e = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    if not e.size:
        return 0.0, ()
    with np.errstate(invalid="ignore"):
        error = np.where(np.isfinite(e), np.abs(a - e), 0.0)
    error[np.isnan(error)] = np.inf
    index = tuple(int(k) for k in np.unravel_index(int(np.argmax(error)), error.shape))
    return float(error[index]), index


def largest(array: Array) -> float:
    """Return the largest finite magnitude in an array, or 1 if that is 0."""
    return float(np.max(np.abs(array), initial=0.0, where=np.isfinite(array))) or 1.0


def worst_errors(actual: Results, expected: Results) -> dict[str, float]:
    """Return the largest absolute error of each array, gradients included."""
    theirs = expected.arrays()
    return {name: worst_error(a, theirs[name])[0] for name, a in actual.arrays().items()}


@dataclass(frozen=True)
class ArrayName:
    """The place of an array among the arguments of a model."""

    name: str


@dataclass(frozen=True)
class Case:
    """The arguments of one call, and the cotangents of its results.

    Attributes:
      name: a label for reports; empty if a report has only one case.
      arrays: the arguments by name. An LSTM has ``inputs`` (time, batch, input_size), ``h_0``
        (L*D, batch, h_size) and ``c_0`` (L*D, batch, H) unless the state is zero, and ``seq_lengths``, int32
        (batch,), unless every step is valid. A model's are named ``args[0]`` or ``kwargs['mask']``.
      cotangents: arrays of the shapes of the results, by name.
      differentiate: if true, gradients are compared too.
      repeated: if true, a second call must return the same results.
      optional: if true, a subject may refuse the case.
      scale: the factor of the absolute limits, such as the largest c of an LSTM, which multiplies a rounding
        error of the forget gate.
      arguments: the args and kwargs of a model, with the names of its arrays in their places.
      compared: "all" of the results and gradients; of "results", the rounding of gradients in the working
        dtype is not; of "values", the rounding of both is not; of "NaN", only which arrays have it.
    """

    name: str
    arrays: Mapping[str, Array]
    cotangents: Mapping[str, Array] = field(default_factory=dict)
    differentiate: bool = True
    repeated: bool = False
    optional: bool = False
    scale: float = 1.0
    arguments: tuple[tuple[Any, ...], Mapping[str, Any]] = ((), {})
    compared: Literal["all", "results", "values", "NaN"] = "all"

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
        values = self.arrays if arrays is None else arrays
        return jax.tree.map(
            lambda leaf: values[leaf.name] if isinstance(leaf, ArrayName) else leaf, self.arguments
        )

    def with_arrays(self, **changes: Array) -> Case:
        """Return the case with some of its arrays replaced."""
        return replace(self, arrays={**self.arrays, **changes})

    def map(self, change: Callable[[Array], Array]) -> Case:
        """Return the case with ``change`` applied to every floating-point argument."""
        return replace(self, arrays={n: change(a) if is_floating(a) else a for n, a in self.arrays.items()})

    def map_numbers(self, change: Callable[[Array], Array]) -> Case:
        """Return the case with ``change`` applied to the floating-point arguments and the cotangents."""
        cotangents = {n: np.asarray(change(a)) for n, a in self.cotangents.items()}
        return replace(self.map(change), cotangents=cotangents)

    def astype(self, dtype: Any) -> Case:
        """Return the case with every floating-point number rounded to ``dtype``, and complex ones alike."""
        case = self.map_numbers(lambda a: a.astype(dtype))
        parts = np.result_type(dtype, np.complex64)
        arrays = {name: a.astype(parts) if a.dtype.kind == "c" else a for name, a in case.arrays.items()}
        return replace(case, arrays=arrays)

    def without(self, *names: str) -> Case:
        """Return the case without some of its arrays."""
        return replace(self, arrays={n: a for n, a in self.arrays.items() if n not in names})

    @property
    def contents(self) -> int:
        """A hash of all the numbers of the case, for the results of references."""
        arrays = (*self.arrays.items(), *self.cotangents.items())
        return hash(tuple((name, a.dtype.str, a.shape, a.tobytes()) for name, a in arrays))

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
