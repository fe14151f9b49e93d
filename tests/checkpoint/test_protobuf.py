"""The wire format of protocol buffers: all kinds of fields, and malformed ones."""

from __future__ import annotations

import pytest

from jaxlstm_converters.checkpoint import CheckpointError
from jaxlstm_converters.checkpoint.io.protobuf import FieldBudget, Message
from jaxlstm_converters.checkpoint.io.source import MemorySource
from jaxlstm_converters.checkpoint.io.stream import Span
from tools.fuzz.protobuf import varint


def message(data: bytes) -> Message:
    return Message(Span(MemorySource(data, "x.onnx"), 0, len(data)), FieldBudget(len(data)))


def field(number: int, kind: int, body: bytes) -> bytes:
    return varint(number << 3 | kind) + body


def test_integers_packed_or_not() -> None:
    packed = b"".join(map(varint, (1, 300, 2**64 - 1)))
    fields = message(field(1, 2, varint(len(packed)) + packed) + field(1, 0, varint(7)))
    assert fields.ints(1) == [1, 300, -1, 7]
    assert fields.int(1) == 7
    assert fields.int(2) == 0
    assert fields.has(1)
    assert not fields.has(2)


def test_fixed_numbers() -> None:
    fields = message(field(1, 5, bytes([1, 0, 0, 0])) + field(2, 1, bytes([2] + [0] * 7)))
    assert (fields.int(1), fields.int(2)) == (1, 2)


def test_last_text_counts() -> None:
    assert message(field(3, 2, b"\x01a") + field(3, 2, b"\x01b")).text(3) == "b"


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (field(0, 0, b"\x00"), "number 0"),
        (field(1, 3, b""), "wire type 3"),
        (field(1, 0, b"\xff" * 10), "ten bytes"),
        (field(1, 0, b"\xff" * 9 + b"\x7f"), "64 bits"),
        (field(1, 2, b"\x05a"), "5 more bytes"),
    ],
    ids=["number", "type", "bytes", "bits", "end"],
)
def test_malformed_fields(data: bytes, part: str) -> None:
    with pytest.raises(CheckpointError, match=part) as caught:
        message(data)
    assert caught.value.code == "onnx-malformed"


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (field(1, 0, b"\x01"), "holds a number"),
        (field(1, 2, varint(5000) + b"a" * 5000), "5000 bytes"),
        (field(1, 2, b"\x01\xff"), "not UTF-8"),
    ],
    ids=["number", "length", "encoding"],
)
def test_malformed_texts(data: bytes, part: str) -> None:
    with pytest.raises(CheckpointError, match=part) as caught:
        message(data).texts(1)
    assert caught.value.code == "onnx-malformed"
