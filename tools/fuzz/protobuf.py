"""Mutations of protobuf messages, field by field at any depth; length prefixes stay consistent."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from random import Random

from tools.fuzz.plain_bytes import edit_bytes, edit_sequence, number, text

Mutate = Callable[[Random, bytes], bytes]
# Field number, wire type, value.
Field = tuple[int, int, "int | bytes | Fields"]
Fields = tuple[Field, ...]

FIXED = {1: 8, 5: 4}


@lru_cache(2000)
def parse(raw: bytes) -> Fields | None:
    """Parse a message and its nested messages; return None if the bytes are not a message."""
    fields: list[Field] = []
    position = 0
    try:
        while position < len(raw):
            key, position = _varint(raw, position)
            kind, value = key & 7, 0
            if kind in (0, 2):
                value, position = _varint(raw, position)
            size = value if kind == 2 else FIXED.get(kind, 0)
            body = raw[position : position + size]
            if kind in (3, 4, 6, 7) or key < 8 or len(body) != size:
                return None
            position += size
            inner = (parse(body) if kind == 2 and body else None) or body
            fields.append((key >> 3, kind, value if kind == 0 else inner))
    except IndexError:
        return None
    return tuple(fields)


def _varint(raw: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position


def write(fields: Fields) -> bytes:
    """Serialize a message."""
    made = bytearray()
    for field, kind, value in fields:
        made += varint(field << 3 | kind)
        if isinstance(value, int):
            made += varint(value)
            continue
        raw = write(value) if isinstance(value, tuple) else value
        made += (varint(len(raw)) if kind == 2 else b"") + raw
    return bytes(made)


def varint(value: int) -> bytes:
    """Encode a number in base 128; negative numbers take 70 bits."""
    value %= 1 << 70
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*made, value])


def mutate_protobuf(rng: Random, raw: bytes, edits: int, mutate: Mutate) -> bytes:
    """Edit fields of the message."""
    fields = parse(raw)
    if fields is None:
        return edit_bytes(rng, raw)
    for _ in range(edits):
        fields = _edited(rng, fields)
    return write(fields)


def _edited(rng: Random, fields: Fields) -> Fields:
    made = list(fields)
    at = rng.randrange(len(made)) if made else 0
    if not made or rng.random() < 0.15:
        edit_sequence(rng, made)
        return tuple(made)
    field, kind, value = made[at]
    if isinstance(value, tuple) and rng.random() < 0.9:
        made[at] = field, kind, _edited(rng, value)
    elif rng.random() < 0.15:
        made[at] = rng.choice((number(rng, field) % (1 << 29), rng.randrange(16))), kind, value
    elif isinstance(value, int):
        made[at] = field, kind, number(rng, value)
    else:
        made[at] = field, kind, _bytes(rng, value)
    return tuple(made)


def _bytes(rng: Random, value: bytes | Fields) -> bytes:
    raw = write(value) if isinstance(value, tuple) else value
    if raw.isascii() and rng.random() < 0.6:
        return text(rng, raw.decode()).encode("utf-8", "surrogatepass")
    return edit_bytes(rng, raw)
