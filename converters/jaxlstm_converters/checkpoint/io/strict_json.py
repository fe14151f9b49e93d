"""JSON objects with unique keys and finite numbers."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

from ..errors import CheckpointError, printable
from .source import Source

# The worst ratio of Python objects to text, in bytes, which "[[],[],...]" reaches.
MEMORY_FACTOR = 28
MEMORY = 56 << 20


def read_json(
    source: Source, offset: int, length: int, code: str, *, fractions: bool = False
) -> dict[str, Any]:
    """Return the JSON object in the `length` bytes from `offset` on.

    Args:
        source, offset, length: the text.
        code: the error code for invalid text.
        fractions: accept numbers with a fraction or an exponent.

    Raises:
        CheckpointError: `duplicate-key`, or `code` for everything else.
    """
    if length * MEMORY_FACTOR > source.size * 5 // 4 + MEMORY:
        raise CheckpointError(code, f"a JSON text of {length} bytes is too large", offset)
    try:
        text = source.read(offset, length).decode("utf-8")
    except ValueError:
        raise CheckpointError(code, "the text is not valid JSON", offset) from None
    value = parse_json(text, code, offset, fractions=fractions)
    if not isinstance(value, dict):
        raise CheckpointError(code, "the JSON text is not an object", offset)
    return value


def parse_json(text: str, code: str, offset: int | None = None, *, fractions: bool = False) -> Any:
    """Return the value of a JSON text, with the arguments and errors of `read_json`."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            counts = Counter(key for key, _ in pairs)
            repeated = next(key for key, count in counts.items() if count > 1)
            message = f"the JSON key {printable(repeated)!r} is set twice"
            raise CheckpointError("duplicate-key", message, offset)
        return result

    def refuse_number(text: str) -> None:
        message = f"the JSON number {printable(text)} is not {'finite' if fractions else 'an integer'}"
        raise CheckpointError(code, message, offset)

    def finite(text: str) -> float | None:
        number = float(text)
        return number if math.isfinite(number) else refuse_number(text)

    try:
        return json.loads(
            text,
            object_pairs_hook=unique,
            parse_constant=refuse_number,
            parse_float=finite if fractions else refuse_number,
        )
    except CheckpointError:
        raise
    except (ValueError, RecursionError):
        raise CheckpointError(code, "the text is not valid JSON", offset) from None
