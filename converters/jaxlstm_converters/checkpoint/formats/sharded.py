"""Sharded checkpoints: an index in JSON that says which file holds which tensor.

`{"metadata": {...}, "weight_map": {name: file, ...}}`, as transformers and accelerate write it
next to safetensors or torch.save files. A shard is a file of the index's own directory.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from ..checkpoint import Checkpoint
from ..errors import CheckpointError, shown, sketch
from ..io.source import Source
from ..io.storage import Budget
from ..io.strict_json import read_json
from ..pickle._name_tensors import Named

MAX_SHARDS = 400  # each keeps a file open


def is_index(head: bytes) -> bool:
    """Whether a file that starts so can be an index."""
    return head.lstrip(b" \t\r\n").startswith((b'{"', b"{ ", b"{\n", b"{\r", b"{\t"))


def read_sharded(source: Source, read: Callable[[Source, Budget], Checkpoint]) -> Checkpoint:
    """The tensors of all shards, in the order of the index.

    Args:
        source: the index.
        read: opens one shard; all share one budget.
    """
    weight_map = _weight_map(source)
    sources = {file: _open(source.path, file) for file in dict.fromkeys(weight_map.values())}
    budget = Budget(source.size + sum(shard.size for shard in sources.values()))
    shards: dict[str, Checkpoint] = {}
    for file, shard in sources.items():
        try:
            shards[file] = _slim(read(shard, budget), len(weight_map))
        except CheckpointError as error:
            error.path = shard.path
            raise
    named = _merge(weight_map, shards)
    kinds = {shard.container for shard in shards.values()}
    checkpoint = Checkpoint(source.path, f"sharded {' and '.join(sorted(kinds))}", named)
    for shard in shards.values():
        checkpoint.metadata |= shard.metadata
    return checkpoint


def _open(index: str, file: str) -> Source:
    path = _inside(index, file)
    try:
        return Source(path)
    except OSError as error:
        raise CheckpointError(
            "shard-mismatch", f"shard {shown(file)!r} cannot be opened: {error.strerror}"
        ) from None


def _slim(shard: Checkpoint, limit: int) -> Checkpoint:
    """The shard without what a small file can have a lot of, since there may be many shards."""
    shard.scalars.clear()
    if max(len(shard), len(shard.hints)) > limit:
        raise CheckpointError(
            "shard-mismatch", f"the shard holds more tensors than the {limit} of the index"
        )
    return shard


def _weight_map(source: Source) -> dict[str, str]:
    index = read_json(source, 0, source.size, "unknown-format")
    weight_map: Any = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError("unknown-format", "this JSON file is no index: it has no weight_map")
    for file in weight_map.values():
        if type(file) is not str or not _is_file_name(file):
            raise CheckpointError("shard-path", f"shard {sketch(file)} is no file beside the index")
    if len(set(weight_map.values())) > MAX_SHARDS:
        raise CheckpointError("shard-mismatch", f"an index of more than {MAX_SHARDS} shards")
    return weight_map


def _is_file_name(file: str) -> bool:
    try:
        os.fsencode(file)
    except UnicodeEncodeError:  # a lone surrogate, which JSON can write
        return False
    return file not in ("", ".", "..") and not set(file) & {"/", "\\", "\0"}


def _inside(index: str, file: str) -> str:
    """The shard's real path, once it is found to be in the index's directory."""
    folder = os.path.realpath(os.path.dirname(index) or ".")
    path = os.path.realpath(os.path.join(folder, file))
    if os.path.dirname(path) != folder:
        raise CheckpointError(
            "shard-path",
            f"shard {shown(file)!r} is a link that leads out of its directory; "
            "copy the files themselves into one directory",
        )
    return path


def _merge(weight_map: dict[str, str], shards: dict[str, Checkpoint]) -> Named:
    """Refuse, all at once, what the index has and a shard lacks and the other way round."""
    absent = [name for name, file in weight_map.items() if name not in shards[file]]
    extra = [
        name for file, shard in shards.items() for name in shard if weight_map.get(name) != file
    ]
    if absent or extra:
        raise CheckpointError(
            "shard-mismatch",
            f"not where the index says: {_list(absent)}; not in the index: {_list(extra)}",
        )
    named = Named()
    named.tensors = {name: shards[file][name] for name, file in weight_map.items()}
    for shard in shards.values():
        named.hints |= shard.hints
        named.warnings += shard.warnings
    for name, tensor in named.tensors.items():
        tensor.name_it(name, named.warnings)
    return named


def _list(names: list[str]) -> str:
    text = ", ".join(shown(name) for name in names[:5])
    return f"{text} and {len(names) - 5} more" if len(names) > 5 else text or "none"
