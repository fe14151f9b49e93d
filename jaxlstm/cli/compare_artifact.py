"""Compare an exported artifact with the code that it was exported from."""

from __future__ import annotations

import argparse
import json
from typing import Any

TOLERANCE = 1e-5
"""Largest accepted difference between an artifact and jaxlstm, relative to the largest result."""


def platform_names(args: argparse.Namespace) -> list[str]:
    """Return the platforms of ``--platforms``."""
    return [name.strip() for name in args.platforms.split(",")]


def runs_here(exported: Any) -> bool:
    """Return True if an artifact has code for the default device of this machine."""
    import jax

    here = jax.default_backend()
    return {"gpu": "cuda"}.get(here, here) in exported.platforms


def relative_difference(actual: Any, expected: Any) -> float:
    """Return the largest difference between two trees of arrays, relative to the largest value of each."""
    import jax
    import numpy as np

    differences = [0.0]
    for pair in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        a, b = (np.asarray(leaf, np.float64) for leaf in pair)
        if a.size:
            differences.append(np.abs(a - b).max() / np.maximum(1.0, np.abs(b).max()))
    return float(np.max(differences))  # np.max propagates NaN, which Python's max may drop


def show_comparison(
    report: dict[str, Any],
    text: str,
    reference: str,
    *,
    as_json: bool,
    not_run: str = "this machine has none of these platforms",
) -> int:
    """Print the result of an export. Return 0 if the artifact agrees or cannot run here, else 1."""
    difference = report["largest_difference"]
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        print(text)
        print(f"weights: {report['weights']}")
        print(
            f"not run: {not_run}"
            if difference is None
            else f"read back and run: largest difference from {reference} {difference:.1e}"
        )
    return 0 if difference is None or difference <= TOLERANCE else 1
