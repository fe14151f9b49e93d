"""Byte ranges of a file: `Storage`, of which tensors are views, and `ByteReader`, for pickles."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import CheckpointError
from .files import CheckpointFile


@dataclass(slots=True, eq=False)
class Storage:
    """A byte range that tensors are views of.

    Attributes:
        source: the file; None until `LegacyStorages.place` sets it.
        offset: the position of the first byte in the file.
        crc: the CRC-32 that the file declares, or None.
        dtype: the dtype of all its tensors; None until the first tensor sets it.
    """

    source: CheckpointFile | None
    offset: int
    nbytes: int
    big_endian: bool = False
    crc: int | None = None
    dtype: np.dtype[Any] | None = None
    _verified: bool = field(default=False, repr=False)

    def use_as(self, dtype: np.dtype[Any]) -> None:
        """Set the dtype, or raise `storage-dtype` if it has another one."""
        if self.dtype is not None and self.dtype != dtype:
            message = f"one storage is used as {self.dtype.name} and as {dtype.name}"
            raise CheckpointError("storage-dtype", message, self.offset)
        self.dtype = dtype

    def read_into(self, start: int, target: memoryview) -> None:
        """Fill `target` from byte `start` on, after comparing the checksum of the whole storage."""
        assert self.source is not None
        self.source.check_unchanged()
        whole = start == 0 and len(target) == self.nbytes
        if not whole and self.crc is not None and not self._verified:
            self._verify(self.source.crc(self.offset, self.nbytes))
        self.source.read_into(self.offset + start, target)
        if whole and self.crc is not None:
            self._verify(zlib.crc32(target))
        self.source.check_unchanged()

    def _verify(self, crc: int) -> None:
        if crc != self.crc:
            assert self.source is not None
            raise CheckpointError(
                "crc-mismatch",
                f"a storage has checksum {crc:08x}, but the file declares {self.crc:08x}",
                self.offset,
                path=self.source.path,
            )
        self._verified = True


@dataclass(slots=True, eq=False)
class Latin1Storage(Storage):
    """Bytes that a pickle of protocol 0 to 2 holds as text, in `encoded` bytes of UTF-8."""

    encoded: int = 0

    def read_into(self, start: int, target: memoryview) -> None:
        """Fill `target` from byte `start` on. The text before it is decoded too."""
        assert self.source is not None
        self.source.check_unchanged()
        position, remainder, end = 0, b"", start + len(target)
        for part in self.source.chunks(self.offset, self.encoded):
            raw, remainder = _decode(remainder + part)
            low, high = max(start, position), min(end, position + len(raw))
            if low < high:
                target[low - start : high - start] = raw[low - position : high - position]
            position += len(raw)
            if position >= end:
                break
        self.source.check_unchanged()


def count_latin1(source: CheckpointFile, offset: int, length: int) -> int:
    """Return the number of bytes that UTF-8 text at `offset` stands for."""
    count, remainder = 0, b""
    try:
        for part in source.chunks(offset, length):
            raw, remainder = _decode(remainder + part)
            count += len(raw)
    except UnicodeError:
        remainder = b"?"
    if remainder:
        message = "bytes are pickled as text, but the text is not Latin-1"
        raise CheckpointError("pickle-malformed", message, offset)
    return count


def _decode(text: bytes) -> tuple[bytes, bytes]:
    """Return the bytes that UTF-8 text stands for, and the first byte of a character cut in two."""
    end = len(text) - (text[-1] >= 0xC0)
    return text[:end].decode("utf-8").encode("latin1"), text[end:]


WINDOW = 1 << 16
# Lines are the arguments of text opcodes: numbers and dotted module names.
MAX_LINE = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """A byte range of a file that has not been read."""

    source: CheckpointFile
    offset: int
    length: int

    def stream(self) -> ByteReader:
        """Return a reader of these bytes."""
        return ByteReader(self.source, self.offset, self.offset + self.length)

    def storage(self) -> Storage:
        """Return these bytes as a storage."""
        return Storage(self.source, self.offset, self.length)


class ByteReader:
    """A reader of the bytes from `offset` to `end`, in order; invalid bytes are `pickle-malformed`."""

    __slots__ = ("_base", "_buffer", "_end", "_filled", "_position", "source")

    def __init__(self, source: CheckpointFile, offset: int, end: int) -> None:
        self.source = source
        self._end = end
        # The buffer holds `_filled` bytes of the file from `_base` on; `_position` counts in it.
        self._base = offset
        self._buffer = b""
        self._filled = 0
        self._position = 0

    @property
    def offset(self) -> int:
        """Position of the next byte in the file."""
        return self._base + self._position

    @property
    def remaining(self) -> int:
        """Number of bytes up to the end."""
        return self._end - self._base - self._position

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        stop = self._position + count
        if stop > self._filled:
            self._fill(count)
            stop = count
        part = self._buffer[self._position : stop]
        self._position = stop
        return part

    def line(self) -> str:
        """Return the text up to the next newline, and skip the newline."""
        if self._position + MAX_LINE > self._filled:
            self._fill(0)
        stop = self._buffer.find(b"\n", self._position, self._position + MAX_LINE)
        if stop < 0:
            raise self.malformed(f"no newline within {MAX_LINE} bytes")
        raw = self._buffer[self._position : stop]
        self._position = stop + 1
        return self.decode(raw)

    def span(self, count: int) -> Span:
        """Skip the next `count` bytes and return their range."""
        self.require(count)
        offset = self.offset
        if self._position + count <= self._filled:
            self._position += count
        else:
            self._base, self._position, self._buffer, self._filled = offset + count, 0, b"", 0
        return Span(self.source, offset, count)

    def require(self, count: int) -> None:
        """Raise unless `count` more bytes remain."""
        if count > self.remaining:
            raise self.malformed(f"expected {count} more bytes, but only {self.remaining} remain")

    def require_end(self) -> None:
        """Raise `trailing-bytes` unless all bytes have been read."""
        if self.remaining:
            message = f"{self.remaining} bytes follow the end of the data"
            raise CheckpointError("trailing-bytes", message, self.offset)

    def number(self, layout: str) -> int:
        """Return one number in a `struct` layout."""
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def decode(self, raw: bytes) -> str:
        """Decode UTF-8 as the pickle module does: lone surrogates pass."""
        try:
            return raw.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            raise self.malformed("text is not UTF-8") from None

    def malformed(self, message: str) -> CheckpointError:
        """Return the error for invalid bytes at this position."""
        return CheckpointError("pickle-malformed", message, self.offset)

    def _fill(self, count: int) -> None:
        self.require(count)
        offset = self.offset
        self._buffer = self.source.read(offset, min(max(count, WINDOW), self._end - offset))
        self._base, self._position, self._filled = offset, 0, len(self._buffer)
