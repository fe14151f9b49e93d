"""JSON in which a key may not occur twice and numbers are whole."""

from __future__ import annotations

import json
from typing import Any

from ..errors import CheckpointError, shown
from .source import Source

MEMORY_FACTOR = 28  # bytes of Python objects for a byte of text at worst, that of "[[],[],...]"
MEMORY = 56 << 20


def read_json(source: Source, offset: int, length: int, code: str) -> dict[str, Any]:
    """The JSON object in `length` bytes at `offset`.

    Raises:
        CheckpointError: `duplicate-key`, or `code` for everything else.
    """
    if length * MEMORY_FACTOR > source.size * 5 // 4 + MEMORY:
        raise CheckpointError(code, f"a JSON text of {length} bytes is too large", offset=offset)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))
            raise CheckpointError(
                "duplicate-key", f"key {shown(twice)!r} is set twice", offset=offset
            )
        return result

    def refuse_number(text: str) -> None:
        raise CheckpointError(code, f"{shown(text)} is no whole number", offset=offset)

    try:
        value = json.loads(
            source.read(offset, length).decode("utf-8"),
            object_pairs_hook=unique,
            parse_constant=refuse_number,
            parse_float=refuse_number,
        )
    except CheckpointError:
        raise
    except (ValueError, RecursionError):
        raise CheckpointError(code, "the text is not JSON", offset=offset) from None
    if not isinstance(value, dict):
        raise CheckpointError(code, "the text is no JSON object", offset=offset)
    return value
