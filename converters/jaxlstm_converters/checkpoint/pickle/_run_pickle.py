"""`run_pickle`: the globals and opcodes that have a meaning, and the loop that runs a pickle.

`pickletools` in the standard library documents the opcodes. INST, OBJ, EXT1 to EXT4, DUP, STRING, NEXT_BUFFER
and READONLY_BUFFER are missing because checkpoints never use them. Bytes stay in the file as `Span`s.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import CheckpointError, printable
from ..io._make_tensor import Budget
from ..io.storage import ByteReader, Span, Storage
from ..io.tensor import DTYPES
from . import calls
from .machine import MAX_LONG, PRICE, TUPLE_PRICE, PickleMachine, Vocabulary
from .values import GlobalName, NumpyArray, NumpyDtype, Placeholder, StorageType

_STORAGE_CLASSES = {
    "FloatStorage": "float32", "DoubleStorage": "float64", "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16", "LongStorage": "int64", "IntStorage": "int32",
    "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64", "ComplexDoubleStorage": "complex128",
}  # fmt: skip
# These dtypes have no storage class; torch writes their tensors with `_rebuild_tensor_v3`.
_DTYPES_WITHOUT_STORAGE_CLASS = ("float8_e4m3fn", "float8_e5m2", "uint16", "uint32", "uint64")

KNOWN_GLOBALS: dict[tuple[str, str], Callable[..., Any] | StorageType | np.dtype[Any]] = {
    ("collections", "OrderedDict"): calls.ordered_dict,
    # Up to torch 0.3.
    ("torch._utils", "_rebuild_tensor"): calls.tensor_v1,
    ("torch._utils", "_rebuild_tensor_v2"): calls.tensor_v2,
    ("torch._utils", "_rebuild_tensor_v3"): calls.tensor_v3,
    ("torch._utils", "_rebuild_parameter"): calls.parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): calls.parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): calls.from_type,
    **{
        ("torch", name): StorageType(DTYPES[dtype], DTYPES[dtype].itemsize)
        for name, dtype in _STORAGE_CLASSES.items()
    },
    ("torch.storage", "UntypedStorage"): StorageType(None),
    ("torch.storage", "_load_from_bytes"): calls.load_from_bytes,
    **{("torch", name): DTYPES[name] for name in _DTYPES_WITHOUT_STORAGE_CLASS},
    ("numpy", "dtype"): calls.dtype,
    ("numpy.core.multiarray", "_reconstruct"): calls.reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): calls.reconstruct,
    # In pickle protocol 5.
    ("numpy.core.numeric", "_frombuffer"): calls.from_buffer,
    ("numpy._core.numeric", "_frombuffer"): calls.from_buffer,
    # In pickle protocols 0 to 2, for bytes.
    ("_codecs", "encode"): calls.encode,
}

VOCABULARY = Vocabulary(KNOWN_GLOBALS, {NumpyArray: calls.set_array, NumpyDtype: calls.set_dtype})


def run_pickle(
    stream: ByteReader,
    budget: Budget,
    *,
    persistent: Callable[[Any], Any] | None = None,
    nested: Callable[[PickleMachine, Span], Storage] | None = None,
) -> PickleMachine:
    """Run the pickle at the current position of `stream`, up to STOP, and return its machine.

    `persistent` becomes its `persistent_value`. `PickleMachine` documents arguments and results.
    """
    machine = PickleMachine(stream, budget, VOCABULARY, persistent, nested)
    take, find_operation = stream.take, OPERATIONS.get
    offset = stream.offset
    try:
        while True:
            offset = stream.offset
            code = take(1)
            machine.opcodes += 1
            operation = find_operation(code)
            if operation is not None:
                operation(machine)
            elif code == b".":
                machine.stop()
                return machine
            else:
                message = f"pickle opcode {code!r} is not supported: checkpoints never use it"
                raise CheckpointError("pickle-opcode", message)
    except CheckpointError as error:
        if error.offset is None:
            error.offset = offset
        raise


def _parse_number(text: str, kind: type[int] | type[float], machine: PickleMachine) -> int | float:
    try:
        return kind(text.removesuffix("L") if kind is int else text)
    except ValueError:
        raise machine.malformed(f"{printable(text)!r} is not a number") from None


def _text_int(m: PickleMachine) -> None:
    line = m.stream.line()
    value = {"00": False, "01": True}.get(line)
    m.push(_parse_number(line, int, m) if value is None else value, PRICE)


def _new_object_ex(m: PickleMachine) -> None:
    # No known global takes keyword arguments.
    m.pop()
    m.call()


def _set_item(m: PickleMachine) -> None:
    value = m.pop()
    m.set_items([m.pop(), value])


def _stack_global(m: PickleMachine) -> None:
    name = m.pop()
    m.find_global(m.pop(), name)


def _new_dict(m: PickleMachine) -> None:
    items = m.pop_mark()
    m.push({}, PRICE)
    m.set_items(items)


def _new_tuple(m: PickleMachine) -> None:
    values = m.pop_mark()
    m.push(tuple(values), TUPLE_PRICE + 8 * len(values))


def _new_list(m: PickleMachine) -> None:
    values = m.pop_mark()
    m.push(values, PRICE + 8 * len(values))


def _new_set(m: PickleMachine, name: str, items: list[Any]) -> None:
    m.push(Placeholder(GlobalName("builtins", name), items=items), 3 * PRICE + 8 * len(items))


def _py2_string(m: PickleMachine) -> None:
    """Push a `str` of Python 2: a string if it is ASCII, or else bytes."""
    span = m.stream.span(m.stream.number("<B"))
    raw = span.source.read(span.offset, span.length)
    m.push(raw.decode() if raw.isascii() else span, 2 * PRICE + len(raw))


def _span(layout: str) -> Callable[[PickleMachine], None]:
    return lambda m: m.push(m.stream.span(m.stream.number(layout)), PRICE)


OPERATIONS: dict[bytes, Callable[[PickleMachine], object]] = {
    # values
    b"N": lambda m: m.push(None),  # NONE
    b"\x88": lambda m: m.push(True),  # NEWTRUE
    b"\x89": lambda m: m.push(False),  # NEWFALSE
    b"K": lambda m: m.push(m.stream.number("<B")),  # BININT1
    b"M": lambda m: m.push(m.stream.number("<H"), PRICE // 2),  # BININT2
    b"J": lambda m: m.push(m.stream.number("<i"), PRICE // 2),  # BININT
    b"G": lambda m: m.push(m.stream.number(">d"), PRICE // 2),  # BINFLOAT
    b"\x8a": lambda m: m.long(m.stream.number("<B")),  # LONG1
    b"\x8b": lambda m: m.long(m.stream.number("<i")),  # LONG4
    b"I": _text_int,  # INT
    b"L": lambda m: m.push(_parse_number(m.stream.line(), int, m), PRICE + MAX_LONG),  # LONG
    b"F": lambda m: m.push(_parse_number(m.stream.line(), float, m), PRICE // 2),  # FLOAT
    b"X": lambda m: m.text(m.stream.number("<I")),  # BINUNICODE
    b"\x8c": lambda m: m.text(m.stream.number("<B")),  # SHORT_BINUNICODE
    b"\x8d": lambda m: m.text(m.stream.number("<Q")),  # BINUNICODE8
    b"C": _span("<B"),  # SHORT_BINBYTES
    b"B": _span("<I"),  # BINBYTES
    b"\x8e": _span("<Q"),  # BINBYTES8
    b"\x96": _span("<Q"),  # BYTEARRAY8
    b"T": _span("<I"),  # BINSTRING
    b"U": _py2_string,  # SHORT_BINSTRING
    # collections
    b"(": PickleMachine.mark,  # MARK
    b")": lambda m: m.push(()),  # EMPTY_TUPLE
    b"\x85": lambda m: m.tuple(1),  # TUPLE1
    b"\x86": lambda m: m.tuple(2),  # TUPLE2
    b"\x87": lambda m: m.tuple(3),  # TUPLE3
    b"t": _new_tuple,  # TUPLE
    b"]": lambda m: m.push([], PRICE),  # EMPTY_LIST
    b"l": _new_list,  # LIST
    b"a": lambda m: m.extend([m.pop()]),  # APPEND
    b"e": lambda m: m.extend(m.pop_mark()),  # APPENDS
    b"}": lambda m: m.push({}, PRICE),  # EMPTY_DICT
    b"d": _new_dict,  # DICT
    b"s": _set_item,  # SETITEM
    b"u": lambda m: m.set_items(m.pop_mark()),  # SETITEMS
    b"\x8f": lambda m: _new_set(m, "set", []),  # EMPTY_SET
    b"\x90": lambda m: m.extend(m.pop_mark()),  # ADDITEMS
    b"\x91": lambda m: _new_set(m, "frozenset", m.pop_mark()),  # FROZENSET
    # globals, calls, state
    b"c": lambda m: m.find_global(m.stream.line(), m.stream.line()),  # GLOBAL
    b"\x93": _stack_global,  # STACK_GLOBAL
    b"R": PickleMachine.call,  # REDUCE
    b"\x81": PickleMachine.call,  # NEWOBJ
    b"\x92": _new_object_ex,  # NEWOBJ_EX
    b"b": PickleMachine.build,  # BUILD
    b"P": lambda m: m.persistent(m.stream.line()),  # PERSID
    b"Q": lambda m: m.persistent(m.pop()),  # BINPERSID
    # the memo, the stack and the pickle as a whole
    b"q": lambda m: m.put(m.stream.number("<B")),  # BINPUT
    b"r": lambda m: m.put(m.stream.number("<I")),  # LONG_BINPUT
    b"p": lambda m: m.put(int(_parse_number(m.stream.line(), int, m))),  # PUT
    b"\x94": PickleMachine.put_next,  # MEMOIZE
    b"h": lambda m: m.get(m.stream.number("<B")),  # BINGET
    b"j": lambda m: m.get(m.stream.number("<I")),  # LONG_BINGET
    b"g": lambda m: m.get(int(_parse_number(m.stream.line(), int, m))),  # GET
    b"0": PickleMachine.drop,  # POP
    b"1": PickleMachine.pop_mark,  # POP_MARK
    # FRAME is a hint for buffering; only its length is checked.
    b"\x95": lambda m: m.stream.require(m.stream.number("<Q")),  # FRAME
    b"\x80": lambda m: m.protocol(m.stream.number("<B")),  # PROTO
}
