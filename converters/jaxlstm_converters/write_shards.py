"""Parameters -> several safetensors files and an index of them, as transformers names and reads them.

The files of a write have names of their own, the index comes last and in one step, and only then do the files
of the index before it go. So at any moment there is an index, and all that it names is whole.
"""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxlstm._shared.atomic import write_atomically
from jaxlstm._shared.safetensors import safetensors_bytes

INDEX_SUFFIX = ".safetensors.index.json"
SHARD_BYTES = 5 * 10**9  # the size that transformers takes


def write_shards(
    index: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str], shard_bytes: int
) -> None:
    """Write ``NAME-UNIQUE-00001-of-0000N.safetensors`` and so on, then the index, ``NAME`` + INDEX_SUFFIX.

    Args:
      index: where the index goes; the files lie beside it.
      tensors: by name.
      metadata: strings for the header of each file.
      shard_bytes: the most bytes of tensors in a file; a larger tensor has a file of its own.
    """
    before = _files_of(index)
    shards = list(_shards(tensors, shard_bytes))
    name, unique = index.name.removesuffix(INDEX_SUFFIX), secrets.token_hex(4)
    weight_map: dict[str, str] = {}
    try:
        for number, shard in enumerate(shards, 1):
            file = f"{name}-{unique}-{number:05}-of-{len(shards):05}.safetensors"
            weight_map |= dict.fromkeys(shard, file)
            write_atomically(index.with_name(file), safetensors_bytes(shard, metadata))
        total = sum(tensor.nbytes for tensor in tensors.values())
        text = json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2)
        write_atomically(index, [text.encode()])
    finally:  # whichever index is there now, its files stay
        _remove(index, (before | set(weight_map.values())) - _files_of(index))


def _shards(tensors: Mapping[str, np.ndarray], shard_bytes: int) -> Iterator[dict[str, np.ndarray]]:
    shard: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        if shard and sum(t.nbytes for t in shard.values()) + tensor.nbytes > shard_bytes:
            yield shard
            shard = {}
        shard[name] = tensor
    yield shard


def _files_of(index: Path) -> set[str]:
    """The files that an index of :func:`write_shards` names; of any other index none, they are not ours."""
    try:
        found: Any = json.loads(index.read_bytes())
        files = {str(file) for file in found["weight_map"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()
    prefix = index.name.removesuffix(INDEX_SUFFIX) + "-"
    return {file for file in files if file.startswith(prefix) and Path(file).name == file}


def _remove(index: Path, files: set[str]) -> None:
    for file in files:
        with contextlib.suppress(OSError):  # gone already, or somebody reads it: no harm either way
            index.with_name(file).unlink()
