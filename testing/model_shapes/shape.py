"""A model of a shape that occurs in practice, with inputs of any size, and its results in files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

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
        module = self.module()
        for part in module.modules():
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                nn.init.normal_(part.running_mean, std=0.3)  # type: ignore[arg-type]
                nn.init.uniform_(part.running_var, 0.5, 2)  # type: ignore[arg-type]
                nn.init.normal_(part.bias)
        return module.eval()

    def arguments(self, sizes: Sizes) -> tuple[Any, ...]:
        """Return random arguments of these sizes."""
        torch.manual_seed(sum(sizes))
        return self.inputs(*sizes)


def file_stem(name: str) -> str:
    return name.replace(" ", "_")


def write_cases(folder: Path, name: str, shape: ModelShape, module: nn.Module) -> None:
    """Write a file of arrays for each of the sizes in ``shape.run_at``."""
    for index, sizes in enumerate(shape.run_at):
        arrays = case_arrays(module, shape.arguments(sizes))
        np.savez(folder / f"{file_stem(name)}.{index}.npz", **arrays)  # type: ignore[arg-type]


def case_arrays(module: nn.Module, arguments: tuple[Any, ...]) -> dict[str, np.ndarray]:
    """Return inputs, outputs, cotangents of floating-point outputs, and gradients.

    The names are ``input.K``, ``output.K``, ``cotangent.K``, ``gradient.K`` of input K, and
    ``gradient.params.NAME``.
    """
    inputs = pytree.tree_leaves(arguments)
    floating = {f"{k}": x.requires_grad_() for k, x in enumerate(inputs) if x.is_floating_point()}
    floating |= {f"params.{name}": p for name, p in module.named_parameters()}
    outputs = pytree.tree_leaves(module(*arguments))
    cotangents = {k: torch.randn_like(y) for k, y in enumerate(outputs) if y.is_floating_point()}
    loss = sum((outputs[k] * cotangent).sum() for k, cotangent in cotangents.items())
    gradients = torch.autograd.grad(loss, list(floating.values()), allow_unused=True)  # type: ignore[arg-type]
    named = {
        **{f"input.{k}": x for k, x in enumerate(inputs)},
        **{f"output.{k}": y for k, y in enumerate(outputs)},
        **{f"cotangent.{k}": cotangent for k, cotangent in cotangents.items()},
        **{
            f"gradient.{name}": torch.zeros_like(source) if gradient is None else gradient
            for (name, source), gradient in zip(floating.items(), gradients, strict=True)
        },
    }
    return {name: _array(tensor) for name, tensor in named.items()}


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().numpy()
