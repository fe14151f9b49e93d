"""JSON with unique keys and finite numbers."""

import json
import math
from collections import Counter
from typing import Any


class StrictJSONError(ValueError):
    """A text that is not strict JSON. `repeats_key` is True if an object sets a key twice."""

    def __init__(self, message: str, *, repeats_key: bool = False) -> None:
        super().__init__(message)
        self.repeats_key = repeats_key


def parse_json(text: str | bytes, *, fractions: bool = False) -> Any:
    """Return the value of a JSON text; ``fractions`` accepts numbers with a fraction or an exponent."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            counts = Counter(key for key, _ in pairs)
            repeated = next(key for key, count in counts.items() if count > 1)
            raise StrictJSONError(f"the JSON key {repeated[:100]!r} is set twice", repeats_key=True)
        return result

    def refuse_number(text: str) -> None:
        kind = "finite" if fractions else "an integer"
        raise StrictJSONError(f"the JSON number {text[:100]} is not {kind}")

    def finite(text: str) -> float | None:
        number = float(text)
        return number if math.isfinite(number) else refuse_number(text)

    try:
        return json.loads(
            text.decode("utf-8") if isinstance(text, bytes) else text,
            object_pairs_hook=unique,
            parse_constant=refuse_number,
            parse_float=finite if fractions else refuse_number,
        )
    except StrictJSONError:
        raise
    except (ValueError, RecursionError):
        raise StrictJSONError("the text is not valid JSON") from None
