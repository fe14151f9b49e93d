"""The parameters of a model that an optimizer trains, and arrays of their shapes in torch's layout.

A moment of an optimizer has the shape of its parameter, so that the layouts of the parameters apply to it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Arrays = tuple[np.ndarray, ...]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class ParameterRow:
    """A tensor of torch, by name, and the parameters of a model that hold the same numbers, by path."""

    torch: str
    paths: tuple[str, ...]
    torch_shape: Shape
    to_model: Callable[[Arrays], Arrays] = lambda arrays: arrays
    to_torch: Callable[[Arrays], Arrays] = lambda arrays: arrays


@dataclass(frozen=True)
class TrainedParameters:
    """The parameters of a Flax NNX model, a program or an LSTM.

    Attributes:
      params: path -> array.
      structure: the pytree of the parameters.
      rows: the tensors of torch that hold the parameters; each path is in one of them.
      originals: name in torch -> name in the checkpoint.
    """

    params: Mapping[str, Any]
    structure: Any
    rows: tuple[ParameterRow, ...]
    originals: Mapping[str, str]

    @property
    def names(self) -> dict[str, str]:
        """Path of a parameter -> name in torch."""
        return {path: row.torch for row in self.rows for path in row.paths}

    def to_model(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return path -> array of the parameters whose tensors are given by their names in torch."""
        converted: dict[str, np.ndarray] = {}
        for row in self.rows:
            if (array := arrays.get(row.torch)) is None:
                continue
            if array.shape != row.torch_shape:
                raise ValueError(
                    f"has a moment of {row.torch} with shape {array.shape}, expected {row.torch_shape}"
                )
            converted.update(zip(row.paths, row.to_model((array,)), strict=True))
        return converted

    def tree(self, leaves: Mapping[str, Any]) -> Any:
        """Return values by path as a pytree with the structure of the parameters."""
        import jax

        places = jax.tree.unflatten(self.structure, range(len(self.params)))
        return jax.tree.unflatten(self.structure, [leaves[path] for path in dotted_leaves(places)])


def parameters_of_lstm(params: Mapping[str, Any], prefix: str = "") -> TrainedParameters:
    """Return the parameters of one LSTM, which have torch's names below a prefix of the checkpoint."""
    import jax

    rows = tuple(ParameterRow(name, (name,), tuple(array.shape)) for name, array in params.items())
    structure = jax.tree.structure(dict(params))
    return TrainedParameters(params, structure, rows, {name: prefix + name for name in params})


def dotted_leaves(tree: Any) -> dict[str, Any]:
    """Return the leaves of a pytree by their path, such as "layers.0.kernel"."""
    import jax

    def text(key: Any) -> str:
        return str(getattr(key, "key", getattr(key, "idx", "")))

    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {".".join(filter(None, map(text, path))): leaf for path, leaf in leaves}
