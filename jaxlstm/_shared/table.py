"""Plain text tables, numbers, counts and sizes for a terminal."""

import math
from collections.abc import Container, Sequence
from typing import Any


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], *, right: Container[int] = ()) -> str:
    """Return a text table. Columns of numbers, and those listed in ``right``, are aligned right."""
    cells = [list(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[k]) for row in cells) for k in range(len(header))]
    numeric = [
        k in right or all(isinstance(row[k], (int, float)) for row in rows) for k in range(len(header))
    ]
    lines = (
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, numeric, strict=True)
        )
        for row in cells
    )
    return "\n".join(line.rstrip() for line in lines)


def format_number(value: float | None) -> str:
    """Format a number with three significant digits; None becomes an empty string."""
    if value is None:
        return ""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:.3g}" if 1e-3 <= abs(value) < 1e5 else f"{value:.1e}"


def count_of(count: int, singular: str) -> str:
    """Return a number and its noun, as in "1 sequence" and "2 sequences"."""
    return f"{count} {singular}{'s' * (count != 1)}"


def size(count: int) -> str:
    """Format a number of bytes, as in "1.6 MB"."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.95:  # Not rounded up to 1000.0.
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
