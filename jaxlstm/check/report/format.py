"""Numbers in text."""

from __future__ import annotations

import math


def format_number(value: float | None) -> str:
    """Format a number with three significant digits; None becomes an empty string."""
    if value is None:
        return ""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:.3g}" if 1e-3 <= abs(value) < 1e5 else f"{value:.1e}"
