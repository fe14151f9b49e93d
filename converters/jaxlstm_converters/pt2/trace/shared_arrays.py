"""`SharedArrays`: a trace follows no change of memory that a tensor and a NumPy array share."""

import sys
from typing import Any

import numpy as np
import torch
from numpy.lib.mixins import NDArrayOperatorsMixin
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree

from jaxlstm.programs.errors import ProgramError
from jaxlstm_converters.pt2.trace.fixed_values import changes_in_place
from jaxlstm_converters.pt2.trace.model_lines import line_of_model

_SHARE = ("as_tensor", "asarray")
_ARRAYS = ("numpy", "__array__")


class ReturnedArray(NDArrayOperatorsMixin):
    """A NumPy array of a tensor whose values are not known: ``forward`` may only return it."""

    def __init__(self, tensor: torch.Tensor, problem: Exception) -> None:
        vars(self).update(tensor=tensor, problem=problem)

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise self.problem

    __array__ = __array_ufunc__ = __array_function__ = __getattr__ = __setattr__ = _refuse
    __getitem__ = __setitem__ = __len__ = __iter__ = __bool__ = __str__ = __repr__ = _refuse
    __hash__: Any = _refuse
    __class__: Any = property(lambda self: np.ndarray)  # for isinstance


class SharedArrays(TorchFunctionMode):
    """A mode that refuses to use a tensor whose array has changed, or to change one whose array is in use."""

    def __init__(self) -> None:
        super().__init__()
        # A tensor, the array that has its memory in torch, and the elements at the time.
        self._shared: list[tuple[torch.Tensor, np.ndarray, bytes]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function of torch."""
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        if self._shared:
            self._require_unchanged(args, kwargs, changes=changes_in_place(name, kwargs))
        if name == "__dlpack__":
            raise _refusal("__dlpack__ gives the memory of a tensor away")
        if args and isinstance(args[0], np.ndarray):
            array = args[0]
            # The trace keeps the tensor as a constant, which must not change with the array.
            result = func(array.copy(), *args[1:], **kwargs)
            if name in _SHARE and str(result.dtype) == f"torch.{array.dtype}":
                self._shared.append((result, array, array.tobytes()))
            return result
        try:
            result = func(*args, **kwargs)
        except RuntimeError as error:
            if name not in _ARRAYS:
                raise
            # No refusal: an export with the values of the example may follow.
            problem = RuntimeError(
                f"forward makes a NumPy array of a tensor that depends on its inputs, at {line_of_model()}. "
                "Return the tensor itself, or use functions of torch"
            )
            if name == "numpy" and not kwargs:
                return ReturnedArray(args[0], problem)
            raise problem from error
        if name in _ARRAYS and type(result) is np.ndarray:
            array = np.array(result)
            self._shared.append((args[0], array, array.tobytes()))
            return array[...]  # The references to the array tell whether it is in use.
        return result

    def _require_unchanged(self, args: Any, kwargs: Any, *, changes: bool) -> None:
        leaves = _pytree.tree_leaves((args, kwargs))
        used = {_memory(leaf) for leaf in leaves if isinstance(leaf, torch.Tensor)}
        for tensor, array, elements in self._shared:
            if _memory(tensor) not in used:
                continue
            if array.tobytes() != elements:
                raise _refusal("forward changes a NumPy array that shares the memory of a tensor")
            # The list, our variable and the call are three references; the array and its own hold a base.
            is_used = sys.getrefcount(array) > 3
            is_used = is_used or (array.base is not None and sys.getrefcount(array.base) > 2)
            if changes and is_used:
                raise _refusal("forward changes a tensor in place that shares the memory of a NumPy array")


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _refusal(problem: str) -> ProgramError:
    message = f"{problem}, at {line_of_model()}. Change a copy of it, or use functions of torch"
    return ProgramError("unsupported-operator", message)
