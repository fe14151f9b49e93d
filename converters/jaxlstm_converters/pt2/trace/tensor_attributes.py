"""Attributes of parameters and buffers, such as ``self.weight.scale``. The tensors of a trace have none."""

import contextlib
import itertools
import sys
from collections.abc import Iterator
from typing import Any

import torch

from jaxlstm._shared.own_thread import replaced
from jaxlstm_converters.pt2.trace.model_lines import is_of_model


@contextlib.contextmanager
def tensor_attributes(module: torch.nn.Module) -> Iterator[None]:
    """Let the code of a module read the attributes of its tensors, which a trace replaces by others."""
    given = {name: vars(tensor) for name, tensor in _tensors(module) if vars(tensor)}

    def get(tensor: torch.Tensor, attribute: str) -> Any:
        if is_of_model(sys._getframe(1).f_code.co_filename):
            for name, present in _tensors(module):
                if present is tensor and attribute in given.get(name, ()):
                    return given[name][attribute]
        raise AttributeError(f"{type(tensor).__name__!r} object has no attribute {attribute!r}")

    with replaced(torch.Tensor, "__getattr__", get) if given else contextlib.nullcontext():
        yield


def _tensors(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    return itertools.chain(module.named_parameters(), module.named_buffers())
