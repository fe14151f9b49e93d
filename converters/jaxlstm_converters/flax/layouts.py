"""Layouts: how the arrays of a torch layer become the arrays of a Flax layer, and back.

A layout maps a tuple of arrays to a tuple of arrays. Most layouts treat each array separately. The torch
shapes that a Flax layer expects are computed with the layout itself, on arrays that take no memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Arrays = tuple[np.ndarray, ...]


class Layout:
    """The identity, and the base class of all layouts.

    Attributes:
      loss: why `to_torch` does not restore what `to_flax` read; empty if it does.
    """

    loss: str = ""

    def to_flax(self, arrays: Arrays) -> Arrays:
        """Return the arrays of the Flax layer. Raise ValueError if it cannot express them."""
        return arrays

    def to_torch(self, arrays: Arrays) -> Arrays:
        """Return the arrays of the torch layer."""
        return arrays

    def torch_shapes(self, flax_shapes: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """Return the shapes of the torch tensors for arrays of ``flax_shapes``."""
        arrays = tuple(np.broadcast_to(np.int8(0), shape) for shape in flax_shapes)
        return [array.shape for array in self.to_torch(arrays)]


SAME = Layout()


@dataclass(frozen=True)
class Transpose(Layout):
    """Axes permuted as by ``numpy.transpose``: axis k of Flax is axis ``axes[k]`` of torch."""

    axes: tuple[int, ...]

    def to_flax(self, arrays: Arrays) -> Arrays:
        """Permute the axes."""
        return tuple(array.transpose(self.axes) for array in arrays)

    def to_torch(self, arrays: Arrays) -> Arrays:
        """Permute the axes back."""
        return tuple(array.transpose(tuple(np.argsort(self.axes))) for array in arrays)


@dataclass(frozen=True)
class Flip(Layout):
    """Axes of the array reversed."""

    axes: tuple[int, ...]

    def to_flax(self, arrays: Arrays) -> Arrays:
        """Reverse the axes."""
        return tuple(np.flip(array, self.axes) for array in arrays)

    to_torch = to_flax


@dataclass(frozen=True)
class Reshape(Layout):
    """The same elements in another shape."""

    torch_shape: tuple[int, ...]
    flax_shape: tuple[int, ...]

    def to_flax(self, arrays: Arrays) -> Arrays:
        """Reshape to ``flax_shape``."""
        return tuple(array.reshape(self.flax_shape) for array in arrays)

    def to_torch(self, arrays: Arrays) -> Arrays:
        """Reshape to ``torch_shape``."""
        return tuple(array.reshape(self.torch_shape) for array in arrays)


@dataclass(frozen=True)
class Split(Layout):
    """One torch tensor that holds ``parts`` equal Flax arrays along an axis."""

    parts: int
    axis: int = 0

    def to_flax(self, arrays: Arrays) -> Arrays:
        """Split the only array."""
        return tuple(np.split(arrays[0], self.parts, self.axis))

    def to_torch(self, arrays: Arrays) -> Arrays:
        """Concatenate the arrays."""
        return (np.concatenate(arrays, self.axis),)


@dataclass(frozen=True)
class Chain(Layout):
    """Layouts one after the other, from torch to Flax."""

    layouts: tuple[Layout, ...]

    @property
    def loss(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The first loss of the layouts."""
        return next((layout.loss for layout in self.layouts if layout.loss), "")

    def to_flax(self, arrays: Arrays) -> Arrays:
        """Apply the layouts in order."""
        for layout in self.layouts:
            arrays = layout.to_flax(arrays)
        return arrays

    def to_torch(self, arrays: Arrays) -> Arrays:
        """Undo the layouts in reverse order."""
        for layout in reversed(self.layouts):
            arrays = layout.to_torch(arrays)
        return arrays


def chain(*layouts: Layout) -> Layout:
    """Return the composition of layouts, from torch to Flax."""
    return layouts[0] if len(layouts) == 1 else Chain(layouts)


@dataclass(frozen=True)
class Functions(Layout):
    """A layout of one array, given by two functions."""

    flax_from_torch: Callable[[np.ndarray], np.ndarray]
    torch_from_flax: Callable[[np.ndarray], np.ndarray]

    def to_flax(self, arrays: Arrays) -> Arrays:
        """Apply ``flax_from_torch``."""
        return (np.asarray(self.flax_from_torch(arrays[0])),)

    def to_torch(self, arrays: Arrays) -> Arrays:
        """Apply ``torch_from_flax``."""
        return (np.asarray(self.torch_from_flax(arrays[0])),)


@dataclass(frozen=True)
class OnlyInTorch(Layout):
    """Tensors of torch without a counterpart in Flax."""

    arrays: Arrays

    def to_flax(self, arrays: Arrays) -> Arrays:
        """Return nothing."""
        return ()

    def to_torch(self, arrays: Arrays) -> Arrays:
        """Return the tensors."""
        return self.arrays


@dataclass(frozen=True)
class OnlyInFlax(Layout):
    """Arrays of Flax without a counterpart in torch."""

    arrays: Arrays

    def to_flax(self, arrays: Arrays) -> Arrays:
        """Return the arrays."""
        return self.arrays

    def to_torch(self, arrays: Arrays) -> Arrays:
        """Return nothing."""
        return ()


class SumOfBiases(Layout):
    """The sum of torch's two biases, which Flax's recurrent cells keep as one."""

    loss = "the sum of bias_ih and bias_hh is written as bias_ih, and bias_hh as zeros"

    def to_flax(self, arrays: Arrays) -> Arrays:
        """Add the biases."""
        bias_ih, bias_hh = arrays
        return (bias_ih + bias_hh,)

    def to_torch(self, arrays: Arrays) -> Arrays:
        """Return the sum, and zeros."""
        return arrays[0], np.zeros_like(arrays[0])


def linear(kernel_shape: tuple[int, ...], inputs: int = 1) -> Layout:
    """Return the layout of a linear kernel whose first ``inputs`` axes are input features.

    torch's weight is always a matrix (out, in).
    """
    sizes = kernel_shape[:inputs], kernel_shape[inputs:]
    matrix = math.prod(sizes[0]), math.prod(sizes[1])
    if matrix == kernel_shape:
        return Transpose((1, 0))
    return chain(Transpose((1, 0)), Reshape(matrix, kernel_shape))
