"""A run of bytes that is read in order, a window at a time: pickles, and ONNX's protobuf."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ..errors import CheckpointError
from .source import Source

WINDOW = 1 << 16
MAX_LINE = 4096  # a dotted module name, a number: the arguments of text opcodes


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """A run of bytes, left in the file."""

    source: Source
    offset: int
    length: int


class Stream:
    """The bytes from `offset` to `end`, in order.

    Args:
        source: the file.
        offset: first byte.
        end: byte after the last.
        code: the error code for bytes that make no sense.
    """

    __slots__ = ("_base", "_buffer", "_code", "_end", "_filled", "_position", "source")

    def __init__(
        self, source: Source, offset: int, end: int, code: str = "pickle-malformed"
    ) -> None:
        self.source = source
        self._code = code
        self._base = offset
        self._end = end
        self._buffer = b""
        self._filled = 0  # bytes in the buffer
        self._position = 0  # of the next byte in the buffer

    @property
    def offset(self) -> int:
        """Offset in the file of the next byte."""
        return self._base + self._position

    @property
    def remaining(self) -> int:
        """Bytes up to the end."""
        return self._end - self._base - self._position

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        stop = self._position + count
        if stop > self._filled:
            self._fill(count)
            stop = count
        part = self._buffer[self._position : stop]
        self._position = stop
        return part

    def line(self) -> str:
        """The next bytes up to a newline, as ASCII or UTF-8 text."""
        if self._position + MAX_LINE > self._filled:
            self._fill(0)
        stop = self._buffer.find(b"\n", self._position, self._position + MAX_LINE)
        if stop < 0:
            raise self.malformed("a line has no end")
        raw = self._buffer[self._position : stop]
        self._position = stop + 1
        return self.decoded(raw)

    def span(self, count: int) -> Span:
        """The next `count` bytes, left where they are."""
        if count > self.remaining:
            raise self._short(count)
        at = self.offset
        if self._position + count <= self._filled:
            self._position += count
        else:
            self._base, self._position, self._buffer, self._filled = at + count, 0, b"", 0
        return Span(self.source, at, count)

    def number(self, layout: str) -> int:
        """One number of fixed width."""
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def decoded(self, raw: bytes) -> str:
        """Text as the pickle module decodes it: lone surrogates pass."""
        try:
            return raw.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            raise self.malformed("text is not UTF-8") from None

    def malformed(self, message: str) -> CheckpointError:
        """The error for bytes that make no sense here."""
        return CheckpointError(self._code, message, offset=self.offset)

    def _fill(self, count: int) -> None:
        if count > self.remaining:
            raise self._short(count)
        at = self.offset
        self._buffer = self.source.read(at, min(max(count, WINDOW), self._end - at))
        self._base, self._position, self._filled = at, 0, len(self._buffer)

    def _short(self, count: int) -> CheckpointError:
        return self.malformed(f"{count} bytes are announced and {self.remaining} remain")
