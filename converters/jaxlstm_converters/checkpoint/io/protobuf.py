"""The wire format of protocol buffers, read lazily: enough for ONNX, and no schema compiler.

A message is a sequence of (field number << 3 | wire type, value). Values that are bytes, texts or
messages stay in the file as `Span`s. https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import CheckpointError
from .stream import Span, Stream

CODE = "onnx-malformed"
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class Message:
    """The fields of one message by number, in order.

    Args:
        span: its bytes.
        budget: counts the fields of all messages of a file down.
    """

    def __init__(self, span: Span, budget: FieldBudget) -> None:
        self._fields: dict[int, list[int | Span]] = {}
        self._span = span
        self._budget = budget
        for number, value in _fields(span):
            budget.spend()
            self._fields.setdefault(number, []).append(value)

    def ints(self, number: int) -> list[int]:
        """A repeated integer, packed or not, as int64."""
        found: list[int] = []
        for value in self._fields.get(number, ()):
            if isinstance(value, Span):
                stream = _stream(value)
                while stream.remaining:
                    self._budget.spend()
                    found.append(_varint(stream))
            else:
                found.append(value)
        return [n - (1 << 64) if n >= 1 << 63 else n for n in found]

    def int(self, number: int, default: int = 0) -> int:
        """An integer; the last one counts."""
        return (self.ints(number) or [default])[-1]

    def spans(self, number: int) -> list[Span]:
        """Repeated bytes, texts or messages."""
        values = self._fields.get(number, [])
        spans = [value for value in values if isinstance(value, Span)]
        if len(spans) != len(values):
            raise CheckpointError(CODE, f"field {number} is no text", offset=self._span.offset)
        return spans

    def has(self, number: int) -> bool:
        """Whether the field is there."""
        return number in self._fields

    def packed(self, number: int) -> list[Span]:
        """The pieces of a repeated field that are packed; those that are not are left out."""
        return [value for value in self._fields.get(number, ()) if isinstance(value, Span)]

    def messages(self, number: int) -> Iterator[Message]:
        """Repeated messages."""
        return (Message(span, self._budget) for span in self.spans(number))

    def texts(self, number: int) -> list[str]:
        """Repeated texts."""
        return [_text(span) for span in self.spans(number)]

    def text(self, number: int) -> str:
        """A text; empty if it is not there."""
        return (self.texts(number) or [""])[-1]


class FieldBudget:
    """How many fields a file may have: each is an object in memory."""

    def __init__(self, file_size: int) -> None:
        self._left = 200_000 + file_size // 256

    def spend(self) -> None:
        """Count one field."""
        self._left -= 1
        if self._left < 0:
            raise CheckpointError(CODE, "the file has far more fields than a model needs")


def _fields(span: Span) -> Iterator[tuple[int, int | Span]]:
    stream = _stream(span)
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
            raise stream.malformed(f"wire type {kind} does not exist")


def _varint(stream: Stream) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = stream.number("<B")
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
    else:
        raise stream.malformed("a number has no end")
    if value >= 1 << 64:
        raise stream.malformed("a number has more than 64 bits")
    return value


def _text(span: Span) -> str:
    if span.length > 4096:
        raise CheckpointError(CODE, f"a name has {span.length} bytes", offset=span.offset)
    try:
        return span.source.read(span.offset, span.length).decode("utf-8")
    except UnicodeDecodeError:
        raise CheckpointError(CODE, "a name is not UTF-8", offset=span.offset) from None


def _stream(span: Span) -> Stream:
    return Stream(span.source, span.offset, span.offset + span.length, CODE)
