"""JSON objects with unique keys and without fractions."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from ..errors import CheckpointError, printable
from .source import Source

# The worst ratio of Python objects to text, in bytes, which "[[],[],...]" reaches.
MEMORY_FACTOR = 28
MEMORY = 56 << 20


def read_json(source: Source, offset: int, length: int, code: str) -> dict[str, Any]:
    """Return the JSON object in the `length` bytes from `offset` on.

    Raises:
        CheckpointError: `duplicate-key`, or `code` for everything else.
    """
    if length * MEMORY_FACTOR > source.size * 5 // 4 + MEMORY:
        raise CheckpointError(code, f"a JSON text of {length} bytes is too large", offset)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            counts = Counter(key for key, _ in pairs)
            repeated = next(key for key, count in counts.items() if count > 1)
            message = f"the JSON key {printable(repeated)!r} is set twice"
            raise CheckpointError("duplicate-key", message, offset)
        return result

    def refuse_number(text: str) -> None:
        message = f"the JSON number {printable(text)} is not an integer"
        raise CheckpointError(code, message, offset)

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
        raise CheckpointError(code, "the text is not valid JSON", offset) from None
    if not isinstance(value, dict):
        raise CheckpointError(code, "the JSON text is not an object", offset)
    return value
