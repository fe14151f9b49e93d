"""What torch's rebuild functions mean, written out: sizes, strides and an offset over a storage.

Each function gets the machine and the arguments of the call. Signatures: torch/_utils.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import CheckpointError
from ..io.storage import Storage
from ..io.stream import Span
from ..io.tensor import Tensor, make_tensor
from .machine import PickleMachine
from .values import Foreign, Global, OrderedDict, Refused

TENSOR_PRICE, DIMENSION_PRICE = 150, 64  # memory, and the time that checking takes
_PLAIN_TYPES = {
    Global("torch.nn.parameter", "Parameter"),
    Global("torch", "Tensor"),
    Global("torch._tensor", "Tensor"),
}


def ordered_dict(machine: PickleMachine, args: tuple[Any, ...]) -> OrderedDict:
    """OrderedDict() or OrderedDict([[key, value], ...]), Python 2's way."""
    result = OrderedDict()
    if args:
        pairs = args[0]
        if len(args) != 1 or type(pairs) is not list:
            raise machine.malformed("an OrderedDict is built from what is not a list of pairs")
        items = []
        for pair in pairs:
            if not isinstance(pair, list | tuple) or len(pair) != 2:
                raise machine.malformed("an OrderedDict is built from what is not a pair")
            items += pair
        machine.push(result)
        machine.set_items(items)
        machine.pop()
    return result


def tensor_v1(machine: PickleMachine, args: tuple[Any, ...]) -> Tensor | Refused:
    """(storage, storage_offset, size, stride)."""
    if len(args) != 4:
        raise machine.malformed(f"_rebuild_tensor is given {len(args)} arguments")
    return _view(machine, args, None, ())


def tensor_v2(machine: PickleMachine, args: tuple[Any, ...]) -> Tensor | Refused:
    """(storage, storage_offset, size, stride, requires_grad, hooks, metadata=None)."""
    if len(args) not in (6, 7):
        raise machine.malformed(f"_rebuild_tensor_v2 is given {len(args)} arguments")
    return _view(machine, args[:4], None, args[6:])


def tensor_v3(machine: PickleMachine, args: tuple[Any, ...]) -> Tensor | Refused:
    """The same with the dtype after the hooks: for dtypes that have no storage class."""
    if len(args) not in (7, 8):
        raise machine.malformed(f"_rebuild_tensor_v3 is given {len(args)} arguments")
    if isinstance(args[6], Global):
        return Refused(f"{args[6]} tensor")
    if not isinstance(args[6], np.dtype):
        raise machine.malformed("_rebuild_tensor_v3 is given no dtype")
    return _view(machine, args[:4], args[6], args[7:])


def load_from_bytes(machine: PickleMachine, args: tuple[Any, ...]) -> Storage:
    """(bytes,): a storage, written as a whole file into a pickle that is not torch's."""
    if len(args) != 1 or not isinstance(args[0], Span) or machine.nested is None:
        raise machine.malformed("a storage within a pickle is not bytes; use pickle protocol 3")
    known = machine.nested_storages.get(id(args[0]))
    if known is None:
        known = (args[0], machine.nested(machine, args[0]))
        machine.nested_storages[id(args[0])] = known
    return known[1]


def parameter(machine: PickleMachine, args: tuple[Any, ...]) -> Tensor | Refused:
    """(data, requires_grad, hooks[, state]): the data."""
    if len(args) not in (3, 4):
        raise machine.malformed(f"_rebuild_parameter is given {len(args)} arguments")
    if isinstance(args[0], Tensor | Refused):
        return args[0]
    raise _not_data(machine, args[0], "a parameter")


def from_type(machine: PickleMachine, args: tuple[Any, ...]) -> Tensor | Refused:
    """(function, type, args, state): what `function(*args)` gives, for tensors with attributes."""
    if len(args) != 4:
        raise machine.malformed(f"_rebuild_from_type_v2 is given {len(args)} arguments")
    function, kind, inner, _state = args
    if not isinstance(kind, Global):  # before it is hashed: that of a deep tuple ends the process
        return Refused("subclass")
    if kind not in _PLAIN_TYPES:
        return Refused(f"tensor of class {kind}")
    rebuilds = {
        Global("torch._utils", "_rebuild_tensor_v2"): tensor_v2,
        Global("torch._utils", "_rebuild_tensor_v3"): tensor_v3,
        Global("torch._utils", "_rebuild_parameter"): parameter,
    }
    if type(inner) is not tuple or not isinstance(function, Global) or function not in rebuilds:
        raise machine.malformed("_rebuild_from_type_v2 is given no known function")
    return rebuilds[function](machine, inner)


def _view(
    machine: PickleMachine,
    geometry: tuple[Any, ...],
    dtype: np.dtype[Any] | None,
    metadata: tuple[Any, ...],
) -> Tensor | Refused:
    storage, offset, size, stride = geometry
    if isinstance(storage, Refused):
        return storage
    if not isinstance(storage, Storage):
        raise _not_data(machine, storage, "a tensor")
    if metadata and metadata[0]:
        return Refused("tensor with metadata (a conjugate or negative view)")
    dtype = dtype or storage.dtype
    if dtype is None:
        raise machine.malformed("a tensor over an untyped storage has no dtype")
    if type(size) is not tuple or type(stride) is not tuple:
        raise CheckpointError("tensor-shape", "sizes or strides are not a tuple")
    machine.charge(TENSOR_PRICE + DIMENSION_PRICE * len(size))
    tensor = make_tensor(storage, dtype, size, budget=machine.budget, strides=stride, offset=offset)
    machine.tensors.append(tensor)
    return tensor


def _not_data(machine: PickleMachine, value: Any, what: str) -> CheckpointError:
    if isinstance(value, Foreign):
        return CheckpointError(
            "foreign-weight", f"{what} is made of the result of {value.cls}, which is not called"
        )
    return machine.malformed(f"{what} is made of a value of type {type(value).__name__}")
