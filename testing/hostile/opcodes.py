"""Pickles opcode by opcode, so that any byte can be made wrong."""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

# The one valid weight of every file.
WEIGHT = np.array([[1.5, -2.0], [0.25, 3e30]], "<f4")


@dataclass
class Storage:
    """A storage, which a container writes in its own way; with `data=None` its bytes are missing."""

    key: Any = "0"
    kind: Any = b"ctorch\nFloatStorage\n"
    numel: Any = 4
    data: bytes | None = WEIGHT.tobytes()
    location: str = "cpu"

    def persistent_id(self) -> list[Any]:
        """Return the opcodes of a storage whose bytes are elsewhere in the file."""
        return [("storage", self.kind, self.key, self.location, self.numel), b"Q"]


@dataclass
class Weight(Storage):
    """A view of a separate storage."""

    offset: Any = 0
    size: Any = (2, 2)
    stride: Any = (2, 1)

    def view(self, storage: Any) -> list[Any]:
        """Return the call that rebuilds this view."""
        return call(REBUILD, storage, self.offset, self.size, self.stride, False, ORDERED)


def encode(value: Any, storage: Callable[[Storage], Any] = Storage.persistent_id) -> bytes:
    """Return the opcodes of a value: bytes are opcodes already, and a list is a sequence of opcodes.

    `storage` returns the value that refers to a storage.
    """
    match value:
        case bytes():
            return value
        case str():
            return text(value)
        case None | True | False:
            return {None: b"N", True: b"\x88", False: b"\x89"}[value]
        case int():
            return integer(value)
        case float():
            return b"G" + struct.pack(">d", value)
        case list():
            return b"".join(encode(item, storage) for item in value)
        case tuple():
            return b"(" + encode([*value], storage) + b"t"
        case dict():
            return b"}(" + encode([part for item in value.items() for part in item], storage) + b"u"
        case Weight():
            return encode(value.view(storage(value)), storage)
        case Storage():
            return encode(storage(value), storage)
    raise TypeError(value)


def text(value: str) -> bytes:
    return b"X" + binary(value.encode())[1:]


def binary(raw: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(raw)) + raw


def integer(value: int) -> bytes:
    if 0 <= value < 256:
        return b"K" + bytes([value])
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def call(function: Any, *args: Any) -> list[Any]:
    return [function, args, b"R"]


def module(module: str, kind: str, **state: Any) -> list[Any]:
    """Return an object of a class, with a state."""
    return [name(module, kind), b")\x81", state, b"b"]


ORDERED_DICT = name("collections", "OrderedDict")
ORDERED = call(ORDERED_DICT)
REBUILD = name("torch._utils", "_rebuild_tensor_v2")
SYSTEM = call(name("posix", "system"), "touch PWNED")
LOAD = name("torch.storage", "_load_from_bytes")
