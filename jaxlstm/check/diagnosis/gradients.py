"""Naming the wrong gradients of a subject whose results are right."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from jaxlstm._shared.table import format_number

Array = np.ndarray

EXACT, ROUNDED = 1e-8, 1e-3
"""Largest error relative to the largest element of a gradient, in float64 and in other dtypes."""


def _differing(ours: Mapping[str, Array], theirs: Mapping[str, Array]) -> list[str]:
    """Return the names of the gradients whose difference exceeds rounding."""

    def is_near(name: str) -> bool:
        limit = EXACT if ours[name].dtype == np.float64 else ROUNDED
        scale = np.max(np.abs(theirs[name]), initial=0.0) or 1.0
        return np.max(np.abs(ours[name].astype(np.float64) - theirs[name]), initial=0.0) <= limit * scale

    return [name for name in theirs if name in ours and not is_near(name)]


def wrong_gradients(ours: Mapping[str, Array], truth: Mapping[str, Array]) -> list[str]:
    """Describe each gradient that is wrong; those with the same error share a line."""
    names_by_error: dict[str, list[str]] = {}
    for name in _differing(ours, truth):
        error = _describe_error(np.asarray(ours[name], np.float64), truth[name])
        names_by_error.setdefault(error, []).append(name)
    return [f"the gradient of {', '.join(names)} {error}" for error, names in names_by_error.items()]


def _describe_error(actual: Array, expected: Array) -> str:
    if not actual.any():
        return "is zero, as after stop_gradient"
    if not np.isfinite(actual).all():
        return "is not finite"
    factor = float(np.vdot(actual, expected) / (np.vdot(expected, expected) or 1.0))
    if np.max(np.abs(actual - factor * expected)) <= 1e-4 * np.max(np.abs(actual)):
        return f"is {format_number(factor)} times the correct gradient"
    return "is wrong"
