"""JSON objects in a file, with unique keys and finite numbers."""

from typing import Any

from jaxlstm._shared.strict_json import StrictJSONError
from jaxlstm._shared.strict_json import parse_json as parse

from ..errors import CheckpointError
from .files import CheckpointFile

# The worst ratio of Python objects to text, in bytes, which "[[],[],...]" reaches.
MEMORY_FACTOR = 28
MEMORY = 56 << 20


def read_json(
    source: CheckpointFile, offset: int, length: int, code: str, *, fractions: bool = False, allowed: int = 0
) -> dict[str, Any]:
    """Return the JSON object in the `length` bytes from `offset` on."""
    if length > allowed:
        require_memory(source, offset, length, code)
    value = parse_json(source.read(offset, length), code, offset, fractions=fractions)
    if not isinstance(value, dict):
        raise CheckpointError(code, "the JSON text is not an object", offset)
    return value


def require_memory(source: CheckpointFile, offset: int, length: int, code: str) -> None:
    """Raise `code` if the values of a JSON text could take more memory than the file may use."""
    if length * MEMORY_FACTOR > source.size * 5 // 4 + MEMORY:
        raise CheckpointError(code, f"a JSON text of {length} bytes is too large", offset)


def parse_json(text: str | bytes, code: str, offset: int | None = None, *, fractions: bool = False) -> Any:
    """Return the value of a JSON text, with the arguments and errors of `read_json`."""
    try:
        return parse(text, fractions=fractions)
    except StrictJSONError as error:
        raise CheckpointError("duplicate-key" if error.repeats_key else code, str(error), offset) from None
