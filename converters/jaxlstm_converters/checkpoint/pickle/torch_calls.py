"""The functions that torch pickles tensors with: sizes, strides and an offset over a storage.

Each function here is called with the machine and the arguments from the pickle. The signatures are
those in torch/_utils.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import CheckpointError
from ..io._make_tensor import make_tensor
from ..io.storage import Storage
from ..io.stream import Span
from ..io.tensor import Tensor
from .machine import PickleMachine
from .values import GlobalName, OrderedDict, Placeholder, UnsupportedTensor

# Memory, and the time that the checks take.
TENSOR_PRICE, DIMENSION_PRICE = 150, 64
_PLAIN_TYPES = {
    GlobalName("torch.nn.parameter", "Parameter"),
    GlobalName("torch", "Tensor"),
    GlobalName("torch._tensor", "Tensor"),
}


def ordered_dict(machine: PickleMachine, args: tuple[Any, ...]) -> OrderedDict:
    """OrderedDict(), or OrderedDict([[key, value], ...]) as Python 2 pickles it."""
    result = OrderedDict()
    if args:
        pairs = args[0]
        if len(args) != 1 or type(pairs) is not list:
            raise machine.malformed("the arguments of OrderedDict are not a list of pairs")
        items = []
        for pair in pairs:
            if not isinstance(pair, list | tuple) or len(pair) != 2:
                raise machine.malformed("an item of OrderedDict is not a pair")
            items += pair
        machine.push(result)
        machine.set_items(items)
        machine.pop()
    return result


def tensor_v1(machine: PickleMachine, args: tuple[Any, ...]) -> Tensor | UnsupportedTensor:
    """_rebuild_tensor(storage, storage_offset, size, stride)."""
    _check_count(machine, "_rebuild_tensor", args, 4, 4)
    return _view(machine, args, None, ())


def tensor_v2(machine: PickleMachine, args: tuple[Any, ...]) -> Tensor | UnsupportedTensor:
    """_rebuild_tensor_v2(..., requires_grad, hooks, metadata=None)."""
    _check_count(machine, "_rebuild_tensor_v2", args, 6, 7)
    return _view(machine, args[:4], None, args[6:])


def tensor_v3(machine: PickleMachine, args: tuple[Any, ...]) -> Tensor | UnsupportedTensor:
    """_rebuild_tensor_v3(..., requires_grad, hooks, dtype, metadata=None)."""
    _check_count(machine, "_rebuild_tensor_v3", args, 7, 8)
    if isinstance(args[6], GlobalName):
        return UnsupportedTensor(f"{args[6]} tensor")
    if not isinstance(args[6], np.dtype):
        raise machine.malformed("the dtype argument of _rebuild_tensor_v3 is not a dtype")
    return _view(machine, args[:4], args[6], args[7:])


def parameter(machine: PickleMachine, args: tuple[Any, ...]) -> Tensor | UnsupportedTensor:
    """_rebuild_parameter(data, requires_grad, hooks[, state])."""
    _check_count(machine, "_rebuild_parameter", args, 3, 4)
    if isinstance(args[0], Tensor | UnsupportedTensor):
        return args[0]
    raise _not_data(machine, args[0], "a parameter")


def from_type(machine: PickleMachine, args: tuple[Any, ...]) -> Tensor | UnsupportedTensor:
    """_rebuild_from_type_v2(function, type, args, state), for tensors with attributes."""
    _check_count(machine, "_rebuild_from_type_v2", args, 4, 4)
    function, kind, inner, _state = args
    # Check the type before hashing it: hashing a deep tuple ends the process.
    if not isinstance(kind, GlobalName):
        return UnsupportedTensor("subclass")
    if kind not in _PLAIN_TYPES:
        return UnsupportedTensor(f"tensor of class {kind}")
    rebuilds = {
        GlobalName("torch._utils", "_rebuild_tensor_v2"): tensor_v2,
        GlobalName("torch._utils", "_rebuild_tensor_v3"): tensor_v3,
        GlobalName("torch._utils", "_rebuild_parameter"): parameter,
    }
    if type(inner) is not tuple or not isinstance(function, GlobalName) or function not in rebuilds:
        raise machine.malformed("the function of _rebuild_from_type_v2 is not a known one")
    return rebuilds[function](machine, inner)


def load_from_bytes(machine: PickleMachine, args: tuple[Any, ...]) -> Storage:
    """_load_from_bytes(b), where `b` is a whole file: how plain pickles contain a storage."""
    if len(args) != 1 or not isinstance(args[0], Span) or machine.nested is None:
        raise machine.malformed(
            "a storage in a pickle is not stored as bytes; write it with pickle protocol 3 or later"
        )
    known = machine.nested_storages.get(id(args[0]))
    if known is None:
        known = (args[0], machine.nested(machine, args[0]))
        machine.nested_storages[id(args[0])] = known
    return known[1]


def _view(
    machine: PickleMachine, geometry: tuple[Any, ...], dtype: np.dtype[Any] | None, metadata: tuple[Any, ...]
) -> Tensor | UnsupportedTensor:
    storage, offset, size, stride = geometry
    if isinstance(storage, UnsupportedTensor):
        return storage
    if not isinstance(storage, Storage):
        raise _not_data(machine, storage, "a tensor")
    if metadata and metadata[0]:
        return UnsupportedTensor("tensor with metadata (a conjugate or negative view)")
    dtype = dtype or storage.dtype
    if dtype is None:
        raise machine.malformed("a tensor over an untyped storage has no dtype")
    if type(size) is not tuple or type(stride) is not tuple:
        raise CheckpointError("tensor-shape", "the sizes and strides of a tensor are not tuples")
    machine.charge(TENSOR_PRICE + DIMENSION_PRICE * len(size))
    tensor = make_tensor(storage, dtype, size, budget=machine.budget, strides=stride, offset=offset)
    machine.tensors.append(tensor)
    return tensor


def _check_count(machine: PickleMachine, function: str, args: tuple[Any, ...], least: int, most: int) -> None:
    if not least <= len(args) <= most:
        expected = str(least) if least == most else f"{least} to {most}"
        raise machine.malformed(f"{function} has {len(args)} arguments, expected {expected}")


def _not_data(machine: PickleMachine, value: Any, owner: str) -> CheckpointError:
    if isinstance(value, Placeholder):
        return CheckpointError(
            "foreign-weight",
            f"the data of {owner} is the result of {value.cls}, which the reader does not call",
        )
    return machine.malformed(f"the data of {owner} is a value of type {type(value).__name__}")
