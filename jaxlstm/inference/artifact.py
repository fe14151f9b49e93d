"""Writing and reading of artifacts, for both LSTMs and programs."""

import contextlib
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.export
import numpy as np

from jaxlstm._shared.files import require_exists, require_folder_of, require_replaceable, write_together
from jaxlstm._shared.imports import import_optional
from jaxlstm._shared.safetensors import read_safetensors, safetensors_bytes

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


def write_artifact(
    path: Path,
    function: Callable[..., Any],
    arrays: Mapping[str, np.ndarray],
    shapes: Sequence[Any],
    *,
    platforms: Sequence[str],
    weights: str,
    metadata: Mapping[str, str],
    overwrite: bool,
) -> jax.export.Exported:
    """Write ``function(arrays, *arguments)`` as an artifact, and its weights beside it if they are large."""
    beside = goes_beside(arrays, weights)
    outputs = [path, weights_beside(path)] if beside else [path]
    _require_replaceable(outputs, function.__name__, overwrite)

    def with_weights_inside(*arguments: Any) -> Any:
        return function(arrays, *arguments)

    with_weights_inside.__name__ = function.__name__
    files: dict[Path, Iterable[bytes | memoryview]] = {}
    if beside:
        files[weights_beside(path)] = safetensors_bytes(arrays, {"format": "pt", **metadata})
        shapes = [{name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in arrays.items()}, *shapes]
    jitted = jax.jit(function if beside else with_weights_inside)
    exported = jax.export.export(jitted, platforms=tuple(platforms))(*shapes)
    write_together({**files, path: [bytes(exported.serialize())]})
    return exported


def _require_replaceable(outputs: Sequence[Path], name: str, overwrite: bool) -> None:
    """Raise if an output exists and is not part of an artifact of a function of this name."""
    ours: Sequence[Path] = []
    with contextlib.suppress(OSError, ValueError):
        artifact = read_artifact(outputs[0])
        if artifact.fun_name.startswith(name):
            ours = outputs[: 1 if read_weights(outputs[0], artifact) is None else 2]
    for output in outputs:
        require_replaceable(output, overwrite=overwrite, is_ours=ours.__contains__)


def goes_beside(arrays: Mapping[str, Any], weights: str) -> bool:
    """Return True if these weights go to a separate file."""
    nbytes = sum(array.nbytes for array in arrays.values())
    return weights == "beside" or (weights == "auto" and nbytes > INSIDE_LIMIT)


def weights_beside(path: Path) -> Path:
    """Return the path of the separate weights: ``m.safetensors`` for ``m.stablehlo``."""
    return path.with_name(path.name.removesuffix(".stablehlo") + ".safetensors")


def read_weights(path: Path, exported: jax.export.Exported) -> dict[str, Any] | None:
    """Return the separate weights of an artifact, or None if it has none."""
    args, _ = jax.tree.unflatten(exported.in_tree, exported.in_avals)
    if not args or not isinstance(args[0], dict):
        return None
    expected, weights = _signature(args[0]), read_safetensors(weights_beside(path))
    if _signature(weights) != expected:
        raise ValueError(
            f"{weights_beside(path)} does not hold the weights of {path}, {expected}, but "
            f"{_signature(weights)}; export both again"
        )
    return weights


def _signature(arrays: Mapping[str, Any]) -> dict[str, str]:
    """Return the dtype and shape of each array, by name."""
    return {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in sorted(arrays.items())}


def read_artifact(path: Path) -> jax.export.Exported:
    """Read a file of ``jax.export``."""
    import_optional("flatbuffers", "export")
    require_exists(path)
    data = path.read_bytes()
    try:
        return jax.export.deserialize(bytearray(data))
    except (ValueError, TypeError, IndexError, KeyError, AssertionError, struct.error) as error:
        raise ValueError(
            f"{path} is not a jax.export artifact; pass a file that 'jaxlstm export' wrote"
        ) from error
