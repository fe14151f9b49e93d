"""``int`` of a value of the trace: Python's own returns a number, which a trace does not know."""

from __future__ import annotations

import traceback
from typing import Any

import numpy as np
import torch
from torch._numpy._ndarray import ndarray

from jaxlstm_converters.pt2.model_lines import is_of_model


class _Integers(type):
    """The type of `SymbolicInt`, which passes for ``int``."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, int)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, int)

    def __eq__(cls, other: Any) -> bool:
        return other is cls or other is int

    __hash__ = type.__hash__


class SymbolicInt(metaclass=_Integers):
    """``int``, which returns a symbolic integer for a value of the trace."""

    dtype = np.dtype(int)  # NumPy takes a class with this attribute as a dtype.

    def __new__(cls, value: Any = 0, *args: Any, **kwargs: Any) -> Any:
        """Return the integer."""
        value = value.tensor if isinstance(value, ndarray) else value
        if isinstance(value, torch.Tensor):
            return value.long().item()
        is_symbolic = isinstance(value, torch.SymInt | torch.SymFloat)
        return torch.sym_int(value) if is_symbolic else int(value, *args, **kwargs)


def globals_of_int(error: BaseException) -> dict[str, Any] | None:
    """Return the global names of the model's line that raised an error, if it may have called ``int``."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    for frame in reversed(frames):
        if is_of_model(frame.f_code.co_filename):
            names = frame.f_globals
            is_own = "int" not in frame.f_code.co_names or "int" in names
            return None if is_own else names
    return None
