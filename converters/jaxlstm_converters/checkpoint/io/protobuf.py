"""The wire format of protocol buffers, read lazily and without a schema, as far as ONNX needs it.

A message is a sequence of (field number << 3 | wire type, value). Bytes, strings and messages stay
in the file as `Span`s. See https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import CheckpointError
from .stream import ByteReader, Span

CODE = "onnx-malformed"
MAX_TEXT = 4096
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class FieldBudget:
    """A limit on the number of fields in a file, each of which is an object in memory."""

    def __init__(self, file_size: int) -> None:
        self._left = 200_000 + file_size // 256

    def spend(self) -> None:
        """Count one field."""
        self._left -= 1
        if self._left < 0:
            raise CheckpointError(CODE, "the file has far more fields than a model needs")


class Message:
    """The fields of one message by number, in order.

    Args:
        span: the bytes of the message.
        budget: counts the fields of all messages of the file.
    """

    def __init__(self, span: Span, budget: FieldBudget) -> None:
        self._fields: dict[int, list[int | Span]] = {}
        self._span = span
        self._budget = budget
        for number, value in _fields(span):
            budget.spend()
            self._fields.setdefault(number, []).append(value)

    def has(self, number: int) -> bool:
        """Return True if the field is present."""
        return number in self._fields

    def ints(self, number: int) -> list[int]:
        """Return a repeated integer, packed or not, as int64."""
        values: list[int] = []
        for value in self._fields.get(number, ()):
            if isinstance(value, Span):
                stream = value.stream(CODE)
                while stream.remaining:
                    self._budget.spend()
                    values.append(_varint(stream))
            else:
                values.append(value)
        return [n - (1 << 64) if n >= 1 << 63 else n for n in values]

    def int(self, number: int) -> int:
        """Return an integer: the last one if it is repeated, 0 if it is absent."""
        return (self.ints(number) or [0])[-1]

    def packed(self, number: int) -> list[Span]:
        """Return the packed parts of a repeated number."""
        return [value for value in self._fields.get(number, ()) if isinstance(value, Span)]

    def messages(self, number: int) -> Iterator[Message]:
        """Return a repeated message."""
        return (Message(span, self._budget) for span in self._spans(number))

    def texts(self, number: int) -> list[str]:
        """Return a repeated string."""
        return [_text(span) for span in self._spans(number)]

    def text(self, number: int) -> str:
        """Return a string: the last one if it is repeated, "" if it is absent."""
        return (self.texts(number) or [""])[-1]

    def _spans(self, number: int) -> list[Span]:
        spans = self.packed(number)
        if len(spans) != len(self._fields.get(number, ())):
            message = f"field {number} holds a number, not text or bytes"
            raise CheckpointError(CODE, message, self._span.offset)
        return spans


def _fields(span: Span) -> Iterator[tuple[int, int | Span]]:
    stream = span.stream(CODE)
    while stream.remaining:
        key = _varint(stream)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise stream.malformed("a field has number 0")
        if kind == VARINT:
            yield number, _varint(stream)
        elif kind == BYTES:
            yield number, stream.span(_varint(stream))
        elif kind == FIXED32:
            yield number, stream.number("<I")
        elif kind == FIXED64:
            yield number, stream.number("<Q")
        else:
            raise stream.malformed(f"a field has the unknown wire type {kind}")


def _varint(stream: ByteReader) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = stream.number("<B")
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
    else:
        raise stream.malformed("a number has more than ten bytes")
    if value >= 1 << 64:
        raise stream.malformed("a number has more than 64 bits")
    return value


def _text(span: Span) -> str:
    if span.length > MAX_TEXT:
        message = f"a name has {span.length} bytes; the limit is {MAX_TEXT}"
        raise CheckpointError(CODE, message, span.offset)
    try:
        return span.source.read(span.offset, span.length).decode("utf-8")
    except UnicodeDecodeError:
        raise CheckpointError(CODE, "a name is not UTF-8", span.offset) from None
