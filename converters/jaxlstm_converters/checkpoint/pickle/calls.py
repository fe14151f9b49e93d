"""The functions that torch and NumPy pickle tensors and arrays with.

Each function is called with the machine and the arguments from the pickle. torch's signatures are those in
torch/_utils.py: sizes, strides and an offset over a storage. NumPy writes an array as
`_reconstruct(ndarray, (0,), b"b")` and BUILD with (version, shape, dtype, is_fortran, bytes), or since pickle
protocol 5 as `_frombuffer(bytes, dtype, shape, order)`.
"""

import re
from typing import Any

import numpy as np

from ..errors import CheckpointError
from ..io._make_tensor import make_array, make_tensor
from ..io.files import MemoryFile
from ..io.storage import Latin1Storage, Span, Storage, count_latin1
from ..io.tensor import Tensor
from .machine import PickleMachine
from .values import GlobalName, NumpyArray, NumpyDtype, OrderedDict, Placeholder, TextSpan, UnsupportedTensor

# Memory, of an array with its storage, and the time that the checks take.
TENSOR_PRICE, ARRAY_PRICE, DIMENSION_PRICE = 150, 400, 64
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
    cached = machine.nested_storages.get(id(args[0]))
    if cached is None:
        cached = (args[0], machine.nested(machine, args[0]))
        machine.nested_storages[id(args[0])] = cached
    return cached[1]


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


NUMERIC = re.compile(r"b1|[iu][1248]|f[248]|c8|c16")
# Pickle protocols 0 to 2 write b"" as bytes().
_BYTES = {GlobalName("__builtin__", "bytes"), GlobalName("builtins", "bytes")}
_ENCODE = GlobalName("_codecs", "encode")


def dtype(machine: PickleMachine, args: tuple[Any, ...]) -> NumpyDtype:
    """numpy.dtype(code, align, copy)."""
    _check_count(machine, "numpy.dtype", args, 1, 3)
    code = next(iter(args))
    is_numeric = type(code) is str and NUMERIC.fullmatch(code)
    return NumpyDtype(code if is_numeric else "")


def set_dtype(machine: PickleMachine, target: NumpyDtype, state: Any) -> None:
    """BUILD with (version, byte order, subarray, names, fields, itemsize, alignment, ...)."""
    if type(state) is not tuple or len(state) < 5 or state[1] not in ("<", ">", "|", "="):
        raise machine.malformed("the state of a NumPy dtype is invalid")
    if state[2] is not None or state[3] is not None or state[4] is not None:
        # A structured dtype.
        target.code = ""
    target.order = state[1]


def reconstruct(machine: PickleMachine, args: tuple[Any, ...]) -> NumpyArray | Placeholder:
    """Return an array without content, or a placeholder for a subclass of ndarray."""
    _check_count(machine, "NumPy's _reconstruct", args, 3, 3)
    ndarray = GlobalName("numpy", "ndarray")
    if args[0] == ndarray:
        return NumpyArray()
    return Placeholder(args[0] if isinstance(args[0], GlobalName) else ndarray)


def set_array(machine: PickleMachine, target: NumpyArray, state: Any) -> None:
    """BUILD with (version, shape, dtype, is_fortran, bytes)."""
    if type(state) is not tuple or len(state) != 5 or target.tensor is not None:
        raise machine.malformed("the state of a NumPy array is invalid or set twice")
    _version, shape, kind, is_fortran, data = state
    _fill(machine, target, data, kind, shape, bool(is_fortran))


def from_buffer(machine: PickleMachine, args: tuple[Any, ...]) -> NumpyArray:
    """_frombuffer(bytes, dtype, shape, order)."""
    if len(args) != 4 or args[3] not in ("C", "F"):
        raise machine.malformed("the arguments of NumPy's _frombuffer are invalid")
    array = NumpyArray()
    _fill(machine, array, args[0], args[1], args[2], args[3] == "F")
    return array


def encode(machine: PickleMachine, args: tuple[Any, ...]) -> bytes | TextSpan | Placeholder:
    """_codecs.encode(text, "latin1"): how pickle protocols 0 to 2 write bytes."""
    if len(args) != 2 or args[1] not in ("latin1", "latin-1"):
        return Placeholder(_ENCODE)
    text = args[0]
    if isinstance(text, TextSpan):
        if text.latin1 is None:
            text.latin1 = count_latin1(text.source, text.offset, text.length)
        return text
    return _latin1(machine, text) if type(text) is str else Placeholder(_ENCODE)


def _latin1(machine: PickleMachine, text: str) -> bytes:
    machine.charge(len(text))
    try:
        return text.encode("latin1")
    except UnicodeEncodeError:
        raise machine.malformed("bytes are pickled as text, but the text is not Latin-1") from None


def _fill(
    machine: PickleMachine, array: NumpyArray, data: Any, kind: Any, shape: Any, is_fortran: bool
) -> None:
    if not isinstance(kind, NumpyDtype) or type(shape) is not tuple:
        raise machine.malformed("a NumPy array has no dtype or no shape")
    if not kind.code:
        return
    machine.charge(ARRAY_PRICE + DIMENSION_PRICE * len(shape))
    storage = _make_storage(machine, data)
    storage.big_endian = kind.order == ">"
    array.tensor = make_array(
        storage,
        np.dtype(kind.code),
        shape,
        budget=machine.budget,
        fortran_order=is_fortran,
        label="a NumPy array",
    )
    machine.tensors.append(array.tensor)


def _make_storage(machine: PickleMachine, data: Any) -> Storage:
    if isinstance(data, Span):
        return data.storage()
    if isinstance(data, TextSpan) and data.latin1 is not None:
        return Latin1Storage(data.source, data.offset, data.latin1, encoded=data.length)
    if isinstance(data, Placeholder) and data.cls in _BYTES and not data.args:
        data = b""
    # Python 2 pickles bytes and text alike.
    if type(data) is str:
        data = _latin1(machine, data)
    if type(data) is not bytes:
        raise machine.malformed(
            f"the data of a NumPy array is a value of type {type(data).__name__}, expected bytes"
        )
    return Storage(MemoryFile(data, machine.stream.source.path), 0, len(data))
