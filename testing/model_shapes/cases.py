"""Torch's values and gradients of a model at other sizes than it was exported with, in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from testing.model_shapes.shape import ModelShape


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
