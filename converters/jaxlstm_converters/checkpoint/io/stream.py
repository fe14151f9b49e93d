"""`ByteReader`: sequential reading, through a small buffer, of pickles and headers."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ..errors import CheckpointError
from .files import CheckpointFile
from .storage import Storage

WINDOW = 1 << 16
# Lines are the arguments of text opcodes: numbers and dotted module names.
MAX_LINE = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """A byte range of a file that has not been read."""

    source: CheckpointFile
    offset: int
    length: int

    def stream(self, code: str = "pickle-malformed") -> ByteReader:
        """Return a reader of these bytes."""
        return ByteReader(self.source, self.offset, self.offset + self.length, code)

    def storage(self) -> Storage:
        """Return these bytes as a storage."""
        return Storage(self.source, self.offset, self.length)


class ByteReader:
    """A reader of the bytes from `offset` to `end`, in order.

    Args:
        source: the file.
        offset: the position of the first byte.
        end: the position after the last byte.
        code: the error code for invalid bytes.
    """

    __slots__ = ("_base", "_buffer", "_code", "_end", "_filled", "_position", "source")

    def __init__(self, source: CheckpointFile, offset: int, end: int, code: str = "pickle-malformed") -> None:
        self.source = source
        self._code = code
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
        at = self.offset
        if self._position + count <= self._filled:
            self._position += count
        else:
            self._base, self._position, self._buffer, self._filled = at + count, 0, b"", 0
        return Span(self.source, at, count)

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
        return CheckpointError(self._code, message, self.offset)

    def _fill(self, count: int) -> None:
        self.require(count)
        at = self.offset
        self._buffer = self.source.read(at, min(max(count, WINDOW), self._end - at))
        self._base, self._position, self._filled = at, 0, len(self._buffer)
