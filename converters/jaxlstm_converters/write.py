"""Parameters -> a file, so that a crash at any moment leaves the old file or the new one, whole.

A new file is written under another name in the same directory, read back, hashed, flushed to the disk and
then renamed over the old one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxlstm.config import LSTMConfig
from jaxlstm.params import check_params, param_shapes
from jaxlstm_converters import flax_files
from jaxlstm_converters.config_json import METADATA_KEY, saved_metadata
from jaxlstm_converters.safetensors_bytes import safetensors_bytes
from jaxlstm_converters.torch_bytes import torch_bytes

FORMATS = ("safetensors", "torch", "msgpack", "orbax")


def save(
    path: str | os.PathLike[str],
    params: Mapping[str, Any],
    config: LSTMConfig,
    *,
    prefix: str = "",
    metadata: Mapping[str, str] | None = None,
    format: str | None = None,
) -> None:
    """Write parameters and config; ``jaxlstm.load`` of the file needs nothing more.

    Args:
      path: where to; a file that is there is replaced in one step, an Orbax directory by two renames.
      params: arrays under torch's names.
      config: the LSTM; written into the file too.
      prefix: put before each name in a safetensors or torch file, such as ``"encoder.lstm."``.
      metadata: more strings for the header of a safetensors file.
      format: "safetensors", "torch" (what ``torch.load(weights_only=True)`` opens, written without
        torch; it has no place for batch_first and dropout), "msgpack" (Flax's) or "orbax" (a directory).
        None: told by the path's end: ``.safetensors``, ``.pt``, ``.pth``, ``.msgpack``, or no ending for
        Orbax.

    Raises:
      ValueError: params that do not fit the config, an unknown format, or a prefix or metadata that the
        format has no place for.
      OSError: the disk is full, say; the old file is as it was.
    """
    path = Path(path)
    format = format or format_of(path)
    if format not in FORMATS:
        raise ValueError(f"format must be one of {FORMATS}, got {format!r}")
    if prefix and format not in ("safetensors", "torch"):
        raise ValueError(f"prefix is for safetensors and torch files alone, not for {format}")
    if metadata and format != "safetensors":
        raise ValueError(f"metadata is for safetensors files alone, not for {format}")
    check_params(params, config)
    arrays = {name: np.asarray(params[name]) for name in param_shapes(config)}
    if format == "orbax":
        flax_files.write_orbax(path, arrays, config)
    elif format == "msgpack":
        write_atomically(path, [flax_files.msgpack_bytes(arrays, config)])
    else:
        named = {prefix + name: array for name, array in arrays.items()}
        header = {"format": "pt", METADATA_KEY: saved_metadata(prefix, config), **(metadata or {})}
        parts = [torch_bytes(named)] if format == "torch" else safetensors_bytes(named, header)
        write_atomically(path, parts)


def format_of(path: Path) -> str:
    """The format that the end of a path stands for."""
    by_suffix = {
        ".safetensors": "safetensors",
        ".pt": "torch",
        ".pth": "torch",
        ".msgpack": "msgpack",
        "": "orbax",
    }
    if path.suffix not in by_suffix:
        raise ValueError(
            f"format must be given for a path that ends in {path.suffix!r}: one of {FORMATS}"
        )
    return by_suffix[path.suffix]


def write_atomically(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Replace the file at ``path`` by one of these bytes, or leave it as it was."""
    with _temporary_beside(path) as temporary:
        wanted = hashlib.sha256()
        with open(temporary, "xb") as file:
            for part in parts:
                file.write(part)
                wanted.update(part)
            file.flush()
            os.fsync(file.fileno())
        with open(temporary, "rb") as file:
            found = hashlib.file_digest(file, "sha256")
        if found.digest() != wanted.digest():
            raise OSError(f"{path}: what was written does not read back; is the disk failing?")
        os.replace(temporary, path)
    _sync_directory(path.parent)


@contextlib.contextmanager
def _temporary_beside(path: Path) -> Iterator[Path]:
    """An unused name in the directory of ``path``, removed if it is still there at the end."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _sync_directory(directory: Path) -> None:
    """Flush a rename to the disk, where the system lets a directory be opened."""
    if os.name != "posix":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
