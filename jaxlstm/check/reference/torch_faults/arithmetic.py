"""Faults of products with a constant, and of interpolation."""

from __future__ import annotations

from collections.abc import Iterator

from jaxlstm.check.reference.torch_faults.operation import Operation, Variant


def scaling(operation: Operation) -> Iterator[Variant]:
    """Yield the fault of a product with a number, or of a quotient by one, that is missing."""
    number = operation.get("other")
    if isinstance(number, (int, float)) and not isinstance(number, bool):
        verb = "multiplication by" if operation.name == "mul" else "division by"
        yield Variant(f"the {verb} {number:g} ({{where}}) is missing", lambda op: op.get("input"))


def resampling(operation: Operation) -> Iterator[Variant]:
    """Yield the faults of an interpolation that follows the conventions of ``jax.image.resize``."""
    mode = operation.get("mode", "nearest")
    if mode == "nearest":
        cause = "{where} is nearest-exact, as jax.image.resize is, instead of nearest"
        yield Variant(cause, lambda op: op.run(mode="nearest-exact"))
    if mode in ("linear", "bilinear", "bicubic", "trilinear"):
        aligned = bool(operation.get("align_corners"))
        cause = f"{{where}} has align_corners={not aligned} instead of {aligned}"
        yield Variant(cause, lambda op: op.run(align_corners=not aligned))
    if mode in ("bilinear", "bicubic") and not operation.get("antialias"):
        cause = "{where} has antialias=True, the default of jax.image.resize, instead of False"
        yield Variant(cause, lambda op: op.run(antialias=True))
