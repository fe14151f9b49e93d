"""A model of a shape that occurs in practice, with inputs of any size."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from testing.modules import randomized

Sizes = tuple[int, int]
"""Batch size and length."""


@dataclass(frozen=True)
class ModelShape:
    """A model with its inputs.

    Attributes:
      module: returns the module with random weights.
      inputs: (batch size, length) -> the arguments of ``forward``. A model without a time axis ignores the
        length.
      exported_at: the sizes of the example for the export.
      run_at: the sizes at which the program runs afterwards.
    """

    module: Callable[[], nn.Module]
    inputs: Callable[[int, int], tuple[Any, ...]]
    exported_at: Sizes
    run_at: tuple[Sizes, ...]

    def build(self) -> nn.Module:
        """Return the module in evaluation mode, with running statistics and biases that are not trivial."""
        torch.manual_seed(0)
        return randomized(self.module()).eval()

    def arguments(self, sizes: Sizes) -> tuple[Any, ...]:
        """Return random arguments of these sizes."""
        torch.manual_seed(sum(sizes))
        return self.inputs(*sizes)
