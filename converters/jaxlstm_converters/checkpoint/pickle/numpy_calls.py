"""What numpy's pickles mean, written out: an array is a dtype, sizes, an order and bytes.

numpy writes an array as `_reconstruct(ndarray, (0,), b"b")` and BUILD with (version, shape, dtype,
is_fortran, bytes), or from pickle protocol 5 on as `_frombuffer(bytes, dtype, shape, order)`.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from ..errors import CheckpointError
from ..io.storage import Latin1Storage, Storage, count_latin1
from ..io.stream import Span
from ..io.tensor import contiguous_strides, make_tensor
from .machine import PickleMachine
from .values import Foreign, Global, NumpyArray, NumpyDtype, TextSpan

NUMERIC = re.compile(r"b1|[iu][1248]|f[248]|c8|c16")

# Pickle protocols 0 to 2 write b"" as bytes().
_BYTES = {Global("__builtin__", "bytes"), Global("builtins", "bytes")}


def dtype(machine: PickleMachine, args: tuple[Any, ...]) -> NumpyDtype:
    """numpy.dtype(code, align, copy)."""
    if len(args) not in (1, 2, 3):
        raise machine.malformed(f"numpy.dtype is given {len(args)} arguments")
    code = next(iter(args))
    numeric = type(code) is str and NUMERIC.fullmatch(code)
    return NumpyDtype(code if numeric else "")


def set_dtype(machine: PickleMachine, target: NumpyDtype, state: Any) -> None:
    """BUILD with (version, byte order, subarray, names, fields, itemsize, alignment, ...)."""
    if type(state) is not tuple or len(state) < 5 or state[1] not in ("<", ">", "|", "="):
        raise machine.malformed("a numpy dtype is given a state that is none")
    if state[2] is not None or state[3] is not None or state[4] is not None:
        target.code = ""  # fields
    target.order = state[1]


def reconstruct(machine: PickleMachine, args: tuple[Any, ...]) -> NumpyArray | Foreign:
    """An array still without content; of a subclass of ndarray: something foreign."""
    if len(args) != 3:
        raise machine.malformed(f"numpy's _reconstruct is given {len(args)} arguments")
    if args[0] == Global("numpy", "ndarray"):
        return NumpyArray()
    return Foreign(args[0] if isinstance(args[0], Global) else Global("numpy", "ndarray"))


def set_array(machine: PickleMachine, target: NumpyArray, state: Any) -> None:
    """BUILD with (version, shape, dtype, is_fortran, bytes)."""
    if type(state) is not tuple or len(state) != 5 or target.tensor is not None:
        raise machine.malformed("a numpy array is given a state that is none")
    _version, shape, kind, fortran, data = state
    _fill(machine, target, data, kind, shape, bool(fortran))


def from_buffer(machine: PickleMachine, args: tuple[Any, ...]) -> NumpyArray:
    """_frombuffer(bytes, dtype, shape, order)."""
    if len(args) != 4 or args[3] not in ("C", "F"):
        raise machine.malformed("numpy's _frombuffer is given other arguments than it takes")
    array = NumpyArray()
    _fill(machine, array, args[0], args[1], args[2], args[3] == "F")
    return array


def encode(machine: PickleMachine, args: tuple[Any, ...]) -> bytes | TextSpan | Foreign:
    """str.encode("latin1"): how bytes are written in pickle protocols 0 to 2."""
    if len(args) != 2 or args[1] not in ("latin1", "latin-1"):
        return Foreign(Global("_codecs", "encode"))
    text = args[0]
    if isinstance(text, TextSpan):
        if text.latin1 is None:
            text.latin1 = count_latin1(text.source, text.offset, text.length)
        return text
    return _latin1(machine, text) if type(text) is str else Foreign(Global("_codecs", "encode"))


def _latin1(machine: PickleMachine, text: str) -> bytes:
    machine.charge(len(text))
    try:
        return text.encode("latin1")
    except UnicodeEncodeError:
        raise machine.malformed("bytes are written as text that is not Latin-1") from None


def _fill(
    machine: PickleMachine, array: NumpyArray, data: Any, kind: Any, shape: Any, fortran: bool
) -> None:
    if not isinstance(kind, NumpyDtype) or type(shape) is not tuple:
        raise machine.malformed("a numpy array has no dtype or no shape")
    if not kind.code:
        return
    machine.charge(400 + 64 * len(shape))  # as in rebuild.py, and a storage
    native = np.dtype(kind.code)
    storage = _stored(machine, data)
    storage.swapped = kind.order == ">"
    strides = None
    if fortran and all(type(n) is int for n in shape):
        strides = tuple(reversed(contiguous_strides(tuple(reversed(shape)))))
    tensor = make_tensor(storage, native, shape, budget=machine.budget, strides=strides)
    if tensor.nbytes != storage.nbytes:
        raise CheckpointError(
            "storage-size",
            f"a numpy array of {tensor.nbytes} bytes has {storage.nbytes}",
            offset=storage.offset if storage.source else None,
        )
    array.tensor = tensor
    machine.tensors.append(tensor)


def _stored(machine: PickleMachine, data: Any) -> Storage:
    if isinstance(data, Span):
        return Storage(data.source, data.offset, data.length)
    if isinstance(data, TextSpan) and data.latin1 is not None:
        return Latin1Storage(data.source, data.offset, data.latin1, encoded=data.length)
    if isinstance(data, Foreign) and data.cls in _BYTES and not data.args:
        data = b""
    if type(data) is str:  # Python 2 wrote bytes and text alike
        data = _latin1(machine, data)
    if type(data) is not bytes:
        raise machine.malformed("a numpy array has no bytes")
    return Storage(None, 0, len(data), data=data)
