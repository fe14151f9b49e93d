"""Access to parsed JSON with checks: each function returns a value of the expected kind or raises."""

from typing import Any

from jaxlstm_converters.checkpoint.errors import CheckpointError, describe, printable

# Wider integers do not fit torch's int64.
INT64 = 1 << 63


def field(record: Any, key: str, kind: type, context: str) -> Any:
    """Return record[key], which must have exactly this type."""
    if not isinstance(record, dict) or key not in record:
        raise malformed(context, f"the field {key!r} is missing")
    return typed(record[key], kind, f"{context}, field {key!r}")


def typed(value: Any, kind: type, context: str) -> Any:
    """Return the value, which must have exactly this type; see `field`."""
    if type(value) is not kind or (kind is int and not -INT64 <= value < INT64):
        raise malformed(context, f"expected {_NAMES[kind]}, got {describe(value)}")
    return value


def union(value: Any, context: str) -> tuple[str, Any]:
    """Return tag and content of {tag: content}, which is how the schema writes a union."""
    if type(value) is not dict or len(value) != 1:
        raise malformed(context, f"expected an object with one key, got {describe(value)}")
    return next(iter(value.items()))


def malformed(context: str, problem: str) -> CheckpointError:
    """Return the error for a text that does not describe a program."""
    return CheckpointError("pt2-malformed", f"{printable(context, 200)}: {problem}")


def unsupported(context: str, problem: str) -> CheckpointError:
    """Return the error for a part of a program that this reader refuses."""
    return CheckpointError("pt2-unsupported", f"{printable(context, 200)}: {problem}")


_NAMES = {
    dict: "an object",
    list: "a list",
    str: "a string",
    int: "a 64-bit integer",
    bool: "true or false",
    float: "a number",
}
