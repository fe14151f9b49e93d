"""Sharded checkpoints: a JSON index that maps each tensor to the file that holds it.

transformers and accelerate write `{"metadata": {...}, "weight_map": {name: file, ...}}` next to
safetensors or torch.save files. Each shard must be a file in the directory of the index.
"""

from collections.abc import Callable
from typing import Any

from ..checkpoint import Checkpoint
from ..errors import CheckpointError, describe, printable
from ..io._make_tensor import Budget
from ..io.files import CheckpointFile, open_beside
from ..io.json_objects import read_json

# Each shard keeps a file open.
MAX_SHARDS = 400


def is_index(head: bytes) -> bool:
    """Return True if a file that starts with `head` may be an index."""
    return head.lstrip(b" \t\r\n").startswith((b'{"', b"{ ", b"{\n", b"{\r", b"{\t"))


def read_sharded(source: CheckpointFile, read: Callable[[CheckpointFile, Budget], Checkpoint]) -> Checkpoint:
    """Read the tensors of all shards by `read`, in the order of the index. The shards share one budget."""
    weight_map = _read_weight_map(source)
    files = dict.fromkeys(weight_map.values())
    sources = {file: open_beside(source.path, file) for file in files}
    budget = Budget(source.size + sum(shard.size for shard in sources.values()))
    shards: dict[str, Checkpoint] = {}
    for file, shard in sources.items():
        try:
            shards[file] = _read_shard(shard, budget, read, len(weight_map))
        except CheckpointError as error:
            error.path = shard.path
            raise
    _check_names(weight_map, shards)
    kinds = sorted({shard.container for shard in shards.values()})
    checkpoint = Checkpoint(source.path, f"sharded {' and '.join(kinds)}")
    for shard in shards.values():
        checkpoint.hints |= shard.hints
        checkpoint.warnings += shard.warnings
        checkpoint.metadata |= shard.metadata
    for name, file in weight_map.items():
        checkpoint.add(name, shards[file][name])
    return checkpoint


def _read_weight_map(source: CheckpointFile) -> dict[str, str]:
    weight_map: Any = read_json(source, 0, source.size, "unknown-format").get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        message = "the JSON file has no weight_map, so it is not the index of a sharded checkpoint"
        raise CheckpointError("unknown-format", message)
    for file in weight_map.values():
        if type(file) is not str:
            raise CheckpointError("shard-path", f"the index names shard {describe(file)}, expected a text")
    count = len(set(weight_map.values()))
    if count > MAX_SHARDS:
        message = f"the index names {count} shards; the limit is {MAX_SHARDS}"
        raise CheckpointError("shard-mismatch", message)
    return weight_map


def _read_shard(
    source: CheckpointFile, budget: Budget, read: Callable[[CheckpointFile, Budget], Checkpoint], limit: int
) -> Checkpoint:
    """Read a shard, without the parts that need much memory for a small file."""
    shard = read(source, budget)
    shard.scalars.clear()
    count = max(len(shard), len(shard.hints))
    if count > limit:
        message = f"the shard has {count} tensors or modules, but the index only {limit}"
        raise CheckpointError("shard-mismatch", message)
    return shard


def _check_names(weight_map: dict[str, str], shards: dict[str, Checkpoint]) -> None:
    """Raise one error with all tensors of the index that a shard lacks, and the reverse."""
    missing = [name for name, file in weight_map.items() if name not in shards[file]]
    unexpected = [name for file, shard in shards.items() for name in shard if weight_map.get(name) != file]
    if missing or unexpected:
        raise CheckpointError(
            "shard-mismatch",
            f"missing from the shard that the index names: {_list(missing)}; "
            f"in a shard but not in the index: {_list(unexpected)}",
        )


def _list(names: list[str]) -> str:
    text = ", ".join(printable(name) for name in names[:5])
    return f"{text} and {len(names) - 5} more" if len(names) > 5 else text or "none"
