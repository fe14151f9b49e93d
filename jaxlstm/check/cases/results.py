"""The results of one call, whatever ran it: outputs and gradients by name, and the calls of its layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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
      ragged: True if torch packed the sequences. Its arrays end at the longest one, with NaN in the padding.
    """

    path: str
    kind: str
    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]
    ragged: bool = False


def is_array(leaf: Any) -> bool:
    """Return True for a NumPy array, a JAX array or a torch tensor."""
    return isinstance(leaf, (np.ndarray, jax.Array)) or hasattr(leaf, "detach")


def is_floating(array: Any) -> bool:
    """Return True if an array has a floating-point dtype, bfloat16 included."""
    return bool(jnp.issubdtype(array.dtype, jnp.floating))


def named_outputs(returned: Any, name: str = "outputs") -> dict[str, Any]:
    """Return the leaves of dicts, tuples and lists by name, such as ``outputs[1][0]``; None is dropped."""
    if returned is None:
        return {}
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


def worst_errors(actual: Results, expected: Results) -> dict[str, float]:
    """Return the largest absolute error of each array, gradients included."""
    theirs = expected.arrays()
    return {name: worst_error(a, theirs[name])[0] for name, a in actual.arrays().items()}
