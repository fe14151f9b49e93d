"""A small torch model, and the expected behaviour of its program at the sizes of its inputs."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from testing.modules import module_of, randomized

Sizes = tuple[Any, ...]
Inputs = Callable[..., tuple[Any, ...]]


@dataclass(frozen=True)
class Specimen:
    """A model that stands for a behaviour, with its inputs.

    Attributes:
      make: returns the module.
      inputs: sizes -> the arguments of ``forward``.
      example: the sizes of the export.
      others: the sizes at which it runs under ``jit`` and is differentiated; none for the example's.
      free: False if other sizes need another export, so that a file refuses them.
      of_inputs: True to compare the gradients of the arguments, too.
      eager: the sizes at which it runs without ``jit``; none for the example's.
      dynamic_shapes: the axes that are free; None for all that can be.
      jit: False if the program needs values that ``jit`` does not know.
      gradients: False if the results have no gradient, or torch's loop has no derivative here.
      atol: the largest difference from torch, absolutely.
      scans: the fewest scans in the jitted program; 0 if there must be none, None if it does not matter.
      padded: whether ``inference.compile`` may pad the free axes, in their order.
      mapped: True if the results have a row for each row of the only input, so that ``.map`` takes rows.
      lines: lines of the methods of the written source, each of which it has once.
      words: texts that the written source has as often as they are given, or as a number says.
      proven: True to compare the written source as ``jaxlstm convert`` does, with its gradients.
    """

    make: Callable[[], nn.Module]
    inputs: Inputs
    example: Sizes
    others: tuple[Sizes, ...] = ()
    eager: tuple[Sizes, ...] = ()
    free: bool = True
    of_inputs: bool = False
    dynamic_shapes: Any = None
    jit: bool = True
    gradients: bool = True
    atol: float = 1e-5
    scans: int | None = None
    padded: tuple[bool, ...] | None = None
    mapped: bool = False
    lines: Sequence[str] = ()
    words: Mapping[str, int] | Sequence[str] = ()
    proven: bool = False

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


def normal(*shapes: tuple[int, ...]) -> Inputs:
    """Return a function from a batch size to random inputs."""
    return lambda batch: tuple(torch.randn(batch, *shape) for shape in shapes)


class Specimens(dict[str, Specimen]):
    """Specimens by name, with expectations in common."""

    def __init__(self, **expected: Any) -> None:
        self.expected = expected

    def of(self, inputs: Inputs, parts: Callable[[], dict[str, Any]] = dict, **expected: Any) -> Any:
        """Return a decorator for a ``forward``, or for what makes a module without arguments."""

        def add(function: Any) -> Any:
            is_forward = not isinstance(function, type) and function.__code__.co_argcount
            make = (lambda: module_of(function, **parts())) if is_forward else function
            name = re.sub(r"_|(?<=[a-z])(?=[A-Z])", " ", function.__name__).strip().lower()
            self[name] = Specimen(make, inputs, **self.expected | expected)
            return function

        return add
