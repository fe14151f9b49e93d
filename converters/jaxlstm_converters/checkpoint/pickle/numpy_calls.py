"""The functions that NumPy pickles arrays with: a dtype, a shape, an order and bytes.

NumPy writes an array as `_reconstruct(ndarray, (0,), b"b")` and BUILD with (version, shape, dtype,
is_fortran, bytes), or since pickle protocol 5 as `_frombuffer(bytes, dtype, shape, order)`.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from ..io._make_tensor import make_array
from ..io.storage import Latin1Storage, Storage, count_latin1
from ..io.stream import Span
from .machine import PickleMachine
from .values import GlobalName, NumpyArray, NumpyDtype, Placeholder, TextSpan

NUMERIC = re.compile(r"b1|[iu][1248]|f[248]|c8|c16")
# The memory of a storage and a tensor, and the time that the checks take.
ARRAY_PRICE, DIMENSION_PRICE = 400, 64

# Pickle protocols 0 to 2 write b"" as bytes().
_BYTES = {GlobalName("__builtin__", "bytes"), GlobalName("builtins", "bytes")}
_ENCODE = GlobalName("_codecs", "encode")


def dtype(machine: PickleMachine, args: tuple[Any, ...]) -> NumpyDtype:
    """numpy.dtype(code, align, copy)."""
    if len(args) not in (1, 2, 3):
        raise machine.malformed(f"numpy.dtype has {len(args)} arguments, expected 1 to 3")
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
    if len(args) != 3:
        raise machine.malformed(f"NumPy's _reconstruct has {len(args)} arguments, expected 3")
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
    return Storage(None, 0, len(data), data=data)
