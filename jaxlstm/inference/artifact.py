"""Arguments, separate weights and reading, for the artifacts of both LSTMs and programs."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.export

from jaxlstm._shared.optional import import_optional
from jaxlstm._shared.paths import require_exists, require_folder_of

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
WEIGHTS = ("auto", "inside", "beside")
INSIDE_LIMIT = 512 * 2**20
"""Bytes of weights above which "auto" writes a separate file. A serialized module must be below 2 GiB."""


def check_arguments(path: Path, platforms: Sequence[str], weights: str) -> None:
    """Raise if an argument of an export is invalid, or a package for it is missing."""
    import_optional("flatbuffers", "export")
    if isinstance(platforms, str) or not platforms or set(platforms) - set(PLATFORMS):
        raise ValueError(f"platforms must be some of {PLATFORMS}, got {platforms!r}")
    if weights not in WEIGHTS:
        raise ValueError(f"weights must be one of {WEIGHTS}, got {weights!r}")
    if path.suffix == ".safetensors":
        raise ValueError(f"path must not end in .safetensors, the suffix of separate weights; got {path}")
    if path.suffix in (".onnx", ".pt", ".pt2", ".pth"):
        raise ValueError(
            f"path must not end in {path.suffix}, as the artifact is StableHLO; got {path}. The usual "
            "suffix is .stablehlo"
        )
    require_folder_of(path)


def goes_beside(arrays: Mapping[str, Any], weights: str) -> bool:
    """Return True if these weights go to a separate file."""
    nbytes = sum(array.nbytes for array in arrays.values())
    return weights == "beside" or (weights == "auto" and nbytes > INSIDE_LIMIT)


def weights_beside(path: Path) -> Path:
    """Return the path of the separate weights: ``m.safetensors`` for ``m.stablehlo``."""
    return path.with_name(path.name.removesuffix(".stablehlo") + ".safetensors")


def read_artifact(path: Path) -> jax.export.Exported:
    """Read a file of ``jax.export``.

    Raises:
      ValueError: the file is not such an artifact.
      OSError: the file cannot be read.
    """
    import_optional("flatbuffers", "export")
    require_exists(path)
    data = path.read_bytes()
    try:
        return jax.export.deserialize(bytearray(data))
    except (ValueError, TypeError, IndexError, KeyError, AssertionError, struct.error) as error:
        raise ValueError(
            f"{path} is not a jax.export artifact; pass a file that 'jaxlstm export' wrote"
        ) from error
