"""The layers of a Flax model as the rules see them, and the layouts of their weights.

A layout maps the arrays of a torch layer to a Flax layer's, and back. Most layouts treat each array
separately. The torch shapes that a Flax layer expects are computed with the layout itself, on arrays that
take no memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

Shape = tuple[int, ...]
Arrays = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class WeightLayout:
    """Two functions that are inverse to each other.

    Attributes:
      to_flax: returns the arrays of the Flax layer; raises ValueError if it cannot express them.
      to_torch: returns the arrays of the torch layer.
      loss: why `to_torch` does not restore what `to_flax` read; empty if it does.
    """

    to_flax: Callable[[Arrays], Arrays]
    to_torch: Callable[[Arrays], Arrays]
    loss: str = ""

    def torch_shapes(self, flax_shapes: list[Shape]) -> list[Shape]:
        """Return the shapes of the torch tensors for arrays of ``flax_shapes``."""
        arrays = tuple(np.broadcast_to(np.int8(0), shape) for shape in flax_shapes)
        return [array.shape for array in self.to_torch(arrays)]


def each(
    to_flax: Callable[[np.ndarray], np.ndarray], to_torch: Callable[[np.ndarray], np.ndarray]
) -> WeightLayout:
    """Return the layout that maps each array separately."""
    return WeightLayout(
        lambda arrays: tuple(np.asarray(to_flax(array)) for array in arrays),
        lambda arrays: tuple(np.asarray(to_torch(array)) for array in arrays),
    )


SAME = each(lambda array: array, lambda array: array)


def transpose(*axes: int) -> WeightLayout:
    """Permute axes as ``numpy.transpose`` does: axis k of Flax is axis ``axes[k]`` of torch."""
    inverse = tuple(np.argsort(axes))
    return each(lambda array: array.transpose(axes), lambda array: array.transpose(inverse))


KERNEL = each(
    lambda array: np.moveaxis(array, (0, 1), (-1, -2)), lambda array: np.moveaxis(array, (-1, -2), (0, 1))
)
"""The layout of a kernel: torch's first two axes are Flax's last two, reversed."""


def flip(*axes: int) -> WeightLayout:
    """Reverse axes."""
    return each(lambda array: np.flip(array, axes), lambda array: np.flip(array, axes))


def reshape(torch_shape: Shape, flax_shape: Shape) -> WeightLayout:
    """Keep the elements, in another shape."""
    return each(lambda array: array.reshape(flax_shape), lambda array: array.reshape(torch_shape))


def split(parts: int, axis: int = 0) -> WeightLayout:
    """Split one torch tensor along an axis into equal Flax arrays."""
    return WeightLayout(
        lambda arrays: tuple(np.split(arrays[0], parts, axis)), lambda arrays: (np.concatenate(arrays, axis),)
    )


def chain(*layouts: WeightLayout) -> WeightLayout:
    """Return the composition of layouts, from torch to Flax."""

    def to_flax(arrays: Arrays) -> Arrays:
        for layout in layouts:
            arrays = layout.to_flax(arrays)
        return arrays

    def to_torch(arrays: Arrays) -> Arrays:
        for layout in reversed(layouts):
            arrays = layout.to_torch(arrays)
        return arrays

    return WeightLayout(to_flax, to_torch, next((layout.loss for layout in layouts if layout.loss), ""))


def only_in_torch(*tensors: np.ndarray) -> WeightLayout:
    """Return the layout of tensors without a counterpart in Flax, which always have these values."""
    return WeightLayout(lambda _: (), lambda _: tensors)


def only_in_flax(*arrays: np.ndarray) -> WeightLayout:
    """Return the layout of arrays without a counterpart in torch, which get these values."""
    return WeightLayout(lambda _: arrays, lambda _: ())


def linear(kernel_shape: Shape, inputs: int = 1) -> WeightLayout:
    """Return the layout of a linear kernel whose first ``inputs`` axes are input features.

    torch's weight is always a matrix (out, in).
    """
    matrix = math.prod(kernel_shape[:inputs]), math.prod(kernel_shape[inputs:])
    return chain(transpose(1, 0), reshape(matrix, kernel_shape))


@dataclass(frozen=True)
class Slot:
    """A place in a model that holds one array.

    Attributes:
      path: the path in the model, such as "conv0.kernel".
      key: equal for two slots that are the same array (tied weights).
    """

    path: str
    key: Hashable
    read: Callable[[], Any] = field(repr=False)
    write: Callable[[Any], None] = field(repr=False)
    shape: tuple[int, ...] = field(init=False)
    dtype: np.dtype = field(init=False)

    def __post_init__(self) -> None:
        array = self.read()
        object.__setattr__(self, "shape", tuple(array.shape))
        object.__setattr__(self, "dtype", np.dtype(array.dtype))


@dataclass(frozen=True)
class FlaxLayer:
    """A module of a Flax model.

    Attributes:
      path: its path in the model, such as "seq.layers.0"; empty for the model itself.
      torch_path: the path of the same layer in torch, if the names agree: "seq.0".
      slots: every array in the module, by its path below the module, such as "kernel".
      has: returns True if the source holds a tensor of this name below the layer's prefix.
    """

    module: Any
    path: str
    torch_path: str
    slots: Mapping[str, Slot]
    has: Callable[[str], bool] = lambda name: False

    def below(self, name: str, module: Any) -> FlaxLayer:
        """Return the submodule ``name`` as a layer that has the same prefix in torch."""
        slots = {key[len(name) + 1 :]: slot for key, slot in self.slots.items() if key.startswith(f"{name}.")}
        return FlaxLayer(module, join(self.path, name), self.torch_path, slots, self.has)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of one array."""
        return self.slots[name].shape


@dataclass(frozen=True)
class TensorPair:
    """Tensors of a torch layer and the arrays of a Flax layer that hold the same numbers.

    Attributes:
      torch: names below the prefix of the torch layer.
      flax: names below the path of the Flax layer.
      hint: added to the message if the shapes do not fit.
      note: added to the notes of the result.
    """

    torch: tuple[str, ...]
    flax: tuple[str, ...]
    layout: WeightLayout = SAME
    hint: str = ""
    note: str = ""

    def below(self, name: str) -> TensorPair:
        """Return the pairing of the layer that holds this one's as its submodule ``name``."""
        return replace(self, flax=tuple(f"{name}.{leaf}" for leaf in self.flax))


def pair(torch: str, flax: str, layout: WeightLayout = SAME, **kwargs: Any) -> TensorPair:
    """Return the pairing of one tensor and one array."""
    return TensorPair((torch,), (flax,), layout, **kwargs)


def join(*parts: str) -> str:
    """Join the parts of a dotted path that are not empty."""
    return ".".join(part for part in parts if part)
