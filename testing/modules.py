"""Torch modules: from a function and its parts, and with random numbers."""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn


def module_of(forward: Callable[..., Any], **parts: Any) -> nn.Module:
    """Return a module of the class ``Model``, in evaluation mode."""
    function: Any = forward
    # from_module records the lines of functions of this name.
    function.__code__ = function.__code__.replace(co_name="forward")
    made = type("Model", (nn.Module,), {"forward": function})()
    for name, part in parts.items():
        if isinstance(part, torch.Tensor) and not isinstance(part, nn.Parameter):
            made.register_buffer(name, part)
        else:
            setattr(made, name, part)
    return made.eval()


def arrays(module: nn.Module) -> dict[str, np.ndarray]:
    """Return the state dict of a module as NumPy arrays."""
    return {name: tensor.numpy() for name, tensor in module.state_dict().items()}


Module = TypeVar("Module", bound=nn.Module)


def randomized(module: Module) -> Module:
    """Return a module with random statistics, and random numbers in vectors that start with equal ones.

    Such are the weights and biases of norms and the biases of attention.
    """
    with torch.no_grad():
        for part in module.modules():
            for name, tensor in part.named_parameters(recurse=False):
                if tensor.ndim == 1 and tensor.unique().numel() == 1:
                    tensor.uniform_(0.5, 2) if name == "weight" else tensor.normal_()
            for name, tensor in part.named_buffers(recurse=False):
                if name in ("running_mean", "running_var"):
                    tensor.uniform_(0.5, 2) if name == "running_var" else tensor.normal_()
    return module
