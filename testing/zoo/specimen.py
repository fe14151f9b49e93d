"""A small torch model, and what is expected of its program at the sizes of its inputs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from testing.modules import randomized

Sizes = tuple[Any, ...]


@dataclass(frozen=True)
class Specimen:
    """A model that stands for a behaviour, with its inputs.

    Attributes:
      make: returns the module.
      inputs: sizes -> the arguments of ``forward``.
      example: the sizes of the export.
      others: the sizes at which the program runs, too.
      exported_again: True if other sizes need another export, so that a file refuses them.
      of_inputs: True to compare the gradients of the arguments, too.
      eager: the sizes at which it has torch's shapes only without ``jit``.
      dynamic_shapes: the axes that are free; None for all that can be.
      jit: False if the program needs values that ``jit`` does not know.
      gradients: False if the results have no gradient, or torch's loop has no derivative here.
      atol: the largest difference from torch, absolutely.
      scans: the fewest scans in the jitted program; 0 if there must be none, None if it does not matter.
      padded: whether ``inference.compile`` may pad the free axes, in their order.
      mapped: True if the results have a row for each row of the only input, so that ``.map`` takes rows.
      lines: lines of the written source, each of which it has once.
      source: the reason why there is no written source.
    """

    make: Callable[[], nn.Module]
    inputs: Callable[..., tuple[Any, ...]]
    example: Sizes
    others: tuple[Sizes, ...] = ()
    eager: tuple[Sizes, ...] = ()
    exported_again: bool = False
    of_inputs: bool = False
    dynamic_shapes: Any = None
    jit: bool = True
    gradients: bool = True
    atol: float = 1e-5
    scans: int | None = None
    padded: tuple[bool, ...] | None = None
    mapped: bool = False
    lines: tuple[str, ...] = ()
    source: str = ""

    def build(self) -> nn.Module:
        """Return the module with the same weights each time, in evaluation mode.

        Running statistics and biases of norms are not trivial.
        """
        torch.manual_seed(0)
        return randomized(self.make()).eval()

    def arguments(self, sizes: Sizes) -> tuple[Any, ...]:
        """Return random arguments of these sizes, the same each time."""
        torch.manual_seed(1 + sum(size for size in sizes if isinstance(size, int)))
        arguments = self.inputs(*sizes)
        if not self.of_inputs:
            return arguments
        return tree_map_only(Tensor, lambda x: x.requires_grad_(x.is_floating_point()), arguments)
