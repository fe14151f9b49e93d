"""The parameters of a model that an optimizer trains, and arrays of their shapes in torch's layout.

A moment of an optimizer has the shape of its parameter, so that the layouts of the parameters apply to it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
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
      pytree: the parameters.
      rows: the tensors of torch that hold the parameters; each path is in one of them.
      originals: name in torch -> name in the checkpoint.
    """

    pytree: Any
    rows: tuple[ParameterRow, ...]
    originals: Mapping[str, str]

    @cached_property
    def params(self) -> dict[str, Any]:
        """Path of a parameter -> array."""
        return dotted_leaves(self.pytree)

    @property
    def names(self) -> dict[str, str]:
        """Path of a parameter -> name in torch."""
        return {path: row.torch for row in self.rows for path in row.paths}

    def tree(self, leaves: Mapping[str, Any]) -> Any:
        """Return values by path as a pytree with the structure of the parameters."""
        import jax

        return jax.tree_util.tree_map_with_path(lambda path, _: leaves[_dotted(path)], self.pytree)


def parameters_of_lstm(params: Mapping[str, Any], prefix: str = "") -> TrainedParameters:
    """Return the parameters of one LSTM, which have torch's names below a prefix of the checkpoint."""
    rows = tuple(ParameterRow(name, (name,), tuple(array.shape)) for name, array in params.items())
    return TrainedParameters(dict(params), rows, {name: prefix + name for name in params})


def dotted_leaves(tree: Any) -> dict[str, Any]:
    """Return the leaves of a pytree by their path, such as "layers.0.kernel"."""
    import jax

    return {_dotted(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def _dotted(path: tuple[Any, ...]) -> str:
    return ".".join(filter(None, (str(getattr(key, "key", getattr(key, "idx", ""))) for key in path)))
