"""The layers of a Flax model as the rules see them, for NNX and Linen alike."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from jaxlstm_converters.flax.layouts import SAME, WeightLayout


@dataclass(frozen=True)
class Slot:
    """A place in a model that holds one array.

    Attributes:
      path: the path in the model, such as "conv0.kernel".
      key: equal for two slots that are the same array (tied weights).
      read: returns the array.
      write: replaces the array.
      shape, dtype: of the array.
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
      module: the NNX or Linen module.
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
      layout: the map between them.
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
        return replace(self, flax=tuple(f"{name}.{own}" for own in self.flax))


def pair(torch: str, flax: str, layout: WeightLayout = SAME, **kwargs: Any) -> TensorPair:
    """Return the pairing of one tensor and one array."""
    return TensorPair((torch,), (flax,), layout, **kwargs)


def join(*parts: str) -> str:
    """Join the parts of a dotted path that are not empty."""
    return ".".join(part for part in parts if part)
