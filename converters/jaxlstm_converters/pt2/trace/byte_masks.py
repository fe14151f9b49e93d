"""``byte_masks``: a byte selects as a mask, as in torch; ``torch.export`` takes a single one for a place."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch._export.non_strict_utils import _NonStrictTorchFunctionHandler

from jaxlstm._shared.own_thread import replaced


@contextlib.contextmanager
def byte_masks() -> Iterator[None]:
    """Read ``x[mask]`` with booleans instead of bytes in this context."""
    override = _NonStrictTorchFunctionHandler._override

    def with_booleans(handler: Any, func: Any, args: Any, kwargs: Any) -> Any:
        if func.__name__ == "__getitem__":
            args = (args[0], as_masks(args[1]))
        return override(handler, func, args, kwargs)

    with replaced(_NonStrictTorchFunctionHandler, "_override", with_booleans):
        yield


def as_masks(index: Any) -> Any:
    """Return an index with booleans instead of bytes."""
    if isinstance(index, tuple):
        return tuple(map(as_masks, index))
    return index.bool() if isinstance(index, torch.Tensor) and index.dtype == torch.uint8 else index
