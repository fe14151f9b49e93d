"""A torch module from a function and its parts."""

from collections.abc import Callable
from typing import Any

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
