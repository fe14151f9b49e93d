"""Runs of bytes in a file, and how many of them tensors may need."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

from ..errors import CheckpointError
from .source import Source

MEMORY = 42 << 20  # bytes of pickled values beyond the size of the file
SPARE_VISITS = 100_000
SLACK = 32 << 20  # bytes that one expanded (stride 0) tensor may need beyond the file's size
TOTAL_SLACK, TOTAL_FACTOR = 1 << 30, 16  # the same for all tensors: views and ties repeat bytes

# Every dtype of torch that numpy or ml_dtypes has, by torch's name.
DTYPES: dict[str, np.dtype[Any]] = {
    **{
        name: np.dtype(name)
        for name in (
            *("float16", "float32", "float64", "complex64", "complex128", "bool"),
            *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        )
    },
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
}


class Budget:
    """What one file may need: bytes of its tensors, all views written out, and of other values.

    Attributes:
        memory: bytes that the values of all its pickles may still take: several are held at once.
        visits: how many values may still be visited by one more of the references to them.
    """

    __slots__ = ("_left", "_one", "memory", "visits")

    def __init__(self, file_size: int) -> None:
        self.memory = MEMORY + file_size * 5 // 4
        self.visits = SPARE_VISITS
        self._one = file_size + SLACK
        self._left = TOTAL_FACTOR * file_size + TOTAL_SLACK

    def spend(self, nbytes: int) -> None:
        """Take `nbytes`, or raise `tensor-budget`."""
        self._left -= nbytes
        if nbytes > self._one or self._left < 0:
            raise CheckpointError(
                "tensor-budget",
                f"a tensor of {nbytes} bytes is far more than its file holds; "
                "save expanded tensors after .contiguous() or .clone()",
            )


@dataclass(slots=True, eq=False)
class Storage:
    """A run of bytes in a file, which tensors are views of.

    Attributes:
        source: the file; None if `data` holds the bytes.
        offset: first byte.
        nbytes: length.
        swapped: the elements are big-endian.
        crc: the CRC-32 that the container states; None if it states none.
        crc_start: the CRC-32 of what the container counts in before these bytes.
        dtype: the one dtype it is used with; None until it is used.
        data: the bytes themselves, instead of a file: short ones that had to be decoded.
    """

    source: Source | None
    offset: int
    nbytes: int
    swapped: bool = False
    crc: int | None = None
    crc_start: int = 0
    dtype: np.dtype[Any] | None = None
    data: bytes | None = None
    _verified: bool = field(default=False, repr=False)

    def use_as(self, dtype: np.dtype[Any]) -> None:
        """Fix the dtype on first use; a second one is refused."""
        if self.dtype is not None and self.dtype != dtype:
            raise CheckpointError(
                "storage-dtype",
                f"one storage is used as {self.dtype.name} and as {dtype.name}",
                offset=self.offset,
            )
        self.dtype = dtype

    def read_into(self, start: int, target: memoryview) -> None:
        """Fill `target` from byte `start` on, once the checksum of the whole run holds."""
        if self.source is None:
            assert self.data is not None
            target[:] = self.data[start : start + len(target)]
            return
        self.source.check_unchanged()
        whole = start == 0 and len(target) == self.nbytes
        if not whole and self.crc is not None and not self._verified:
            self._compare(self.source.crc(self.offset, self.nbytes, self.crc_start))
        self.source.read_into(self.offset + start, target)
        if whole and self.crc is not None:
            self._compare(zlib.crc32(target, self.crc_start))
        self.source.check_unchanged()

    def _compare(self, crc: int) -> None:
        if crc != self.crc:
            assert self.source is not None
            raise CheckpointError(
                "crc-mismatch",
                f"the bytes of a storage have checksum {crc:08x}, not {self.crc:08x}",
                offset=self.offset,
                path=self.source.path,
            )
        self._verified = True


@dataclass(slots=True, eq=False)
class Latin1Storage(Storage):
    """Bytes that a pickle of protocol 0 to 2 holds as text: `encoded` bytes of UTF-8 in the file."""

    encoded: int = 0

    def read_into(self, start: int, target: memoryview) -> None:
        """Fill `target` from byte `start` on; what comes before must be decoded too."""
        assert self.source is not None
        self.source.check_unchanged()
        position, rest, end = 0, b"", start + len(target)
        for part in self.source.chunks(self.offset, self.encoded):
            raw, rest = _latin1(rest + part)
            low, high = max(start, position), min(end, position + len(raw))
            if low < high:
                target[low - start : high - start] = raw[low - position : high - position]
            position += len(raw)
            if position >= end:
                break
        self.source.check_unchanged()


def _latin1(text: bytes) -> tuple[bytes, bytes]:
    """The bytes that UTF-8 text stands for, and the first half of a character that is cut."""
    cut = len(text) - (text[-1] >= 0xC0)
    return text[:cut].decode("utf-8").encode("latin1"), text[cut:]


def count_latin1(source: Source, offset: int, length: int) -> int:
    """How many bytes the UTF-8 text at `offset` stands for.

    Raises:
        CheckpointError: pickle-malformed, if it is not the UTF-8 of Latin-1 characters.
    """
    count, rest = 0, b""
    try:
        for part in source.chunks(offset, length):
            raw, rest = _latin1(rest + part)
            count += len(raw)
    except UnicodeError:
        rest = b"?"
    if rest:
        raise CheckpointError(
            "pickle-malformed", "bytes are written as text that is not Latin-1", offset=offset
        )
    return count
