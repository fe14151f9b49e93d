"""The tar format of torch 0.1, with the members sys_info, storages, tensors and pickle.

In `storages`, each storage follows a pickle of (key, location, type). In `tensors`, the sizes,
strides and offset of a tensor follow a pickle of (key, storage key, type). In `pickle`, a tensor is
a persistent id with its key. torch.serialization._legacy_load reads this format.
"""

from __future__ import annotations

import re
import struct
from typing import Any

from ..checkpoint import Checkpoint
from ..errors import CheckpointError, describe, printable
from ..io._make_tensor import MAX_NDIM, make_tensor
from ..io.budget import Budget
from ..io.source import Source
from ..io.storage import Storage
from ..io.stream import ByteReader
from ..io.tensor import Tensor
from ..pickle._name_tensors import name_tensors
from ..pickle._run_pickle import run_pickle
from ..pickle.values import StorageType

BLOCK = 512
# Zeros after the last member. Python's tarfile pads to 10,240 bytes.
MAX_PADDING = 1 << 16
# Of storages or of tensors.
MAX_COUNT = 10_000
MEMBERS = {"sys_info", "storages", "tensors", "pickle"}
# The only records that a pax header may contain.
PAX_TIMES = re.compile(rb"([0-9]+ (mtime|atime|ctime)=[0-9.]+\n)*")


def is_tar(head: bytes) -> bool:
    """Return True if `head` is the first block of a tar archive."""
    return head[257:262] == b"ustar"


def read_legacy_tar(source: Source, budget: Budget) -> Checkpoint:
    """Read the checkpoint, including modules that were saved whole."""
    checkpoint = Checkpoint(source.path, "torch legacy tar")
    members = _read_members(source)
    storages = _read_storages(ByteReader(source, *members["storages"]), budget)
    tensors = _read_tensors(ByteReader(source, *members["tensors"]), budget, storages)

    def resolve(persistent_id: Any) -> Any:
        # The class of a module, with its source code.
        if type(persistent_id) is tuple and persistent_id:
            return persistent_id[0]
        if type(persistent_id) is not str or persistent_id not in tensors:
            message = f"the file has no tensor with key {describe(persistent_id)}"
            raise CheckpointError("missing-storage", message)
        return tensors[persistent_id]

    stream = ByteReader(source, *members["pickle"])
    result = run_pickle(stream, budget, persistent=resolve)
    stream.require_end()
    result.tensors = list(tensors.values())
    name_tensors(checkpoint, result, budget=budget)
    return checkpoint


def _read_members(source: Source) -> dict[str, tuple[int, int]]:
    """Return the offset and end of each member."""
    members: dict[str, tuple[int, int]] = {}
    position = 0
    while position + BLOCK <= source.size:
        header = source.read(position, BLOCK)
        if not any(header):
            break
        name, kind, size = _parse_header(header, position)
        start = position + BLOCK
        position = start + -(-size // BLOCK) * BLOCK
        if position > source.size:
            message = f"the file ends within member {printable(name)!r}"
            raise CheckpointError("truncated", message, start)
        if kind == b"x":
            if size > BLOCK or not PAX_TIMES.fullmatch(source.read(start, size)):
                raise _tar_error("a pax header sets attributes other than times", start)
            continue
        if name not in MEMBERS or name in members:
            raise _tar_error(f"member {printable(name)!r} is unknown or appears twice", start)
        members[name] = (start, start + size)
    rest = source.size - position
    if rest > MAX_PADDING or any(source.read(position, rest)):
        raise CheckpointError("trailing-bytes", "bytes follow the end of the archive", position)
    if members.keys() != MEMBERS:
        missing = ", ".join(sorted(MEMBERS - members.keys()))
        raise _tar_error(f"the archive is not a torch checkpoint: it has no member {missing}")
    return members


def _parse_header(header: bytes, at: int) -> tuple[str, bytes, int]:
    """Return name, type and size from a POSIX ustar header."""
    checksum = sum(header[:148]) + 8 * 0x20 + sum(header[156:])
    kind = header[156:157]
    name = header[:100].rstrip(b"\0").decode("latin1").removeprefix("./")
    prefix, link = header[345:500].rstrip(b"\0"), header[157:257].rstrip(b"\0")
    size = re.fullmatch(rb"([0-7]{1,11})[ \0]*", header[124:136])
    declared = re.fullmatch(rb" *([0-7]{1,7})[ \0]*", header[148:156])
    if not is_tar(header) or size is None or declared is None or int(declared[1], 8) != checksum:
        raise _tar_error("a member header is malformed or has a wrong checksum", at)
    if kind not in (b"0", b"\0", b"x") or link or prefix:
        raise _tar_error(f"member {printable(name)!r} is not a regular file", at)
    return name, kind, int(size[1], 8)


def _read_storages(stream: ByteReader, budget: Budget) -> dict[Any, Storage]:
    storages: dict[Any, Storage] = {}
    for _ in range(_read_count(stream, budget)):
        item = run_pickle(stream, budget).value
        if type(item) is not tuple or len(item) != 3 or not isinstance(item[2], StorageType):
            raise stream.malformed("a storage is not described by (key, location, type)")
        key, _location, kind = item
        numel = stream.number("<q")
        if numel < 0 or numel * kind.itemsize > stream.remaining:
            message = f"a storage declares {numel} elements, more than the file has"
            raise CheckpointError("truncated", message, stream.offset)
        span = stream.span(numel * kind.itemsize)
        storage = Storage(stream.source, span.offset, span.length, dtype=kind.dtype)
        _add(storages, key, storage, stream)
    views = run_pickle(stream, budget).value
    if type(views) is not list:
        raise stream.malformed("the views of storages are not a list")
    for view in views:
        _add_view(storages, view, stream)
    stream.require_end()
    return storages


def _add_view(storages: dict[Any, Storage], view: Any, stream: ByteReader) -> None:
    """Add the storage of a view (key, key of the whole storage, start, size), in elements."""
    if type(view) is not tuple or len(view) != 4 or not all(type(n) is int for n in view):
        raise stream.malformed("a view of a storage is not described by four integers")
    key, root_key, start, size = view
    root = storages.get(root_key)
    if root is None or root.dtype is None:
        message = f"the file has no storage {describe(root_key)}, but a view of it"
        raise CheckpointError("missing-storage", message)
    itemsize = root.dtype.itemsize
    if start < 0 or size < 0 or (start + size) * itemsize > root.nbytes:
        message = f"a view extends beyond storage {describe(root_key)}"
        raise CheckpointError("tensor-bounds", message)
    offset = root.offset + start * itemsize
    _add(storages, key, Storage(root.source, offset, size * itemsize, dtype=root.dtype), stream)


def _read_tensors(stream: ByteReader, budget: Budget, storages: dict[Any, Storage]) -> dict[str, Tensor]:
    """Return the tensors by key, as the text by which `pickle` refers to them."""
    tensors: dict[str, Tensor] = {}
    for _ in range(_read_count(stream, budget)):
        item = run_pickle(stream, budget).value
        if type(item) is not tuple or len(item) != 3:
            raise stream.malformed("a tensor is not described by (key, storage key, type)")
        key, storage_key, _kind = item
        storage = storages.get(storage_key) if type(storage_key) in (int, str) else None
        if storage is None or storage.dtype is None:
            message = f"the file has no storage {describe(storage_key)}"
            raise CheckpointError("missing-storage", message)
        ndim = stream.number("<i")
        # The upper half: early versions wrote eight bytes.
        stream.take(4)
        if not 0 <= ndim <= MAX_NDIM:
            message = f"a tensor declares {ndim} dimensions, expected 0 to {MAX_NDIM}"
            raise CheckpointError("tensor-shape", message)
        numbers = struct.unpack(f"<{2 * ndim + 1}q", stream.take(16 * ndim + 8))
        shape, strides, offset = numbers[:ndim], numbers[ndim:-1], numbers[-1]
        tensor = make_tensor(storage, storage.dtype, shape, budget=budget, strides=strides, offset=offset)
        _add(tensors, str(key) if type(key) is int else key, tensor, stream)
    stream.require_end()
    return tensors


def _read_count(stream: ByteReader, budget: Budget) -> int:
    count = run_pickle(stream, budget).value
    if type(count) is not int or not 0 <= count <= MAX_COUNT:
        raise stream.malformed(f"a count is {describe(count)}, expected 0 to {MAX_COUNT}")
    return count


def _add(target: dict[Any, Any], key: Any, value: Any, stream: ByteReader) -> None:
    if type(key) not in (int, str) or key in target:
        message = f"the key {describe(key)} is used twice or is not an integer or string"
        raise CheckpointError("storage-key", message, stream.offset)
    target[key] = value


def _tar_error(message: str, offset: int | None = None) -> CheckpointError:
    return CheckpointError("tar-entry", message, offset)
