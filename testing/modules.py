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
    """Return a module with random statistics, and random weights and biases of its norms."""
    with torch.no_grad():
        for norm in module.modules():
            if isinstance(norm, (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d)):
                for name, tensor in norm.state_dict().items():
                    if name in ("weight", "running_var"):
                        tensor.uniform_(0.5, 2)
                    elif tensor.is_floating_point():
                        tensor.normal_()
    return module
