"""Parameters -> a file, or several with an index; a crash at any moment leaves the old or the new, whole."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxlstm.config import LSTMConfig
from jaxlstm.params import check_params, param_shapes
from jaxlstm_converters import flax_files
from jaxlstm._shared.atomic import write_atomically
from jaxlstm_converters.config_json import METADATA_KEY, saved_metadata
from jaxlstm._shared.safetensors import safetensors_bytes
from jaxlstm_converters.torch_bytes import torch_bytes
from jaxlstm_converters.write_shards import INDEX_SUFFIX, SHARD_BYTES, write_shards

FORMATS = ("safetensors", "torch", "msgpack", "orbax")


def save(
    path: str | os.PathLike[str],
    params: Mapping[str, Any],
    config: LSTMConfig,
    *,
    prefix: str = "",
    metadata: Mapping[str, str] | None = None,
    format: str | None = None,
    shard_bytes: int | None = None,
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
        Orbax. A path that ends in ``.safetensors.index.json`` is an index, with several files beside it.
      shard_bytes: with an index, the most bytes of tensors in a file; 5 GB if None.

    Raises:
      ValueError: params that do not fit the config, an unknown format, or an argument that the format has
        no place for.
      OSError: the disk is full, say; the old file is as it was.
    """
    path = Path(path)
    format = format or format_of(path)
    sharded = path.name.endswith(INDEX_SUFFIX)
    _require_a_place(format, path, prefix, metadata, shard_bytes)
    check_params(params, config)
    arrays = {name: np.asarray(params[name]) for name in param_shapes(config)}
    if format == "orbax":
        flax_files.write_orbax(path, arrays, config)
    elif format == "msgpack":
        write_atomically(path, [flax_files.msgpack_bytes(arrays, config)])
    else:
        named = {prefix + name: array for name, array in arrays.items()}
        header = {"format": "pt", METADATA_KEY: saved_metadata(prefix, config), **(metadata or {})}
        if sharded:
            write_shards(path, named, header, shard_bytes or SHARD_BYTES)
        else:
            parts = [torch_bytes(named)] if format == "torch" else safetensors_bytes(named, header)
            write_atomically(path, parts)


def _require_a_place(
    format: str,
    path: Path,
    prefix: str,
    metadata: Mapping[str, str] | None,
    shard_bytes: int | None,
) -> None:
    """Raise where the format is unknown or has no place for an argument."""
    if format not in FORMATS:
        raise ValueError(f"format must be one of {FORMATS}, got {format!r}")
    if prefix and format not in ("safetensors", "torch"):
        raise ValueError(f"prefix is for safetensors and torch files alone, not for {format}")
    if metadata and format != "safetensors":
        raise ValueError(f"metadata is for safetensors files alone, not for {format}")
    sharded = path.name.endswith(INDEX_SUFFIX)
    if shard_bytes is not None and not sharded:
        raise ValueError(
            f"shard_bytes needs a path that ends in {INDEX_SUFFIX!r}, got {path.name!r}"
        )
    if shard_bytes is not None and shard_bytes < 1:
        raise ValueError(f"shard_bytes must be at least 1, got {shard_bytes}")
    if sharded and format != "safetensors":
        raise ValueError(
            f"an index is of safetensors files, not of {format}; end the path otherwise"
        )


def format_of(path: Path) -> str:
    """The format that the end of a path stands for."""
    if path.name.endswith(INDEX_SUFFIX):
        return "safetensors"
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
