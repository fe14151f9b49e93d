"""The tar container of torch 0.1: the members sys_info, storages, tensors and pickle.

`storages` holds each storage after a pickle of (key, location, type); `tensors` holds sizes,
strides and offset after a pickle of (key, storage key, type); in `pickle` a tensor is the
persistent id of its key. Format: torch.serialization._legacy_load.
"""

from __future__ import annotations

import re
import struct
from typing import Any

from ..checkpoint import Checkpoint
from ..errors import CheckpointError, shown, sketch
from ..io.source import Source
from ..io.storage import Budget, Storage
from ..io.stream import Stream
from ..io.tensor import MAX_NDIM, Tensor, make_tensor
from ..pickle._name_tensors import name_tensors
from ..pickle._run_pickle import run_pickle
from ..pickle.modules import module_members
from ..pickle.values import StorageType

BLOCK = 512
MAX_PADDING = 1 << 16  # zeros after the last member; tarfile fills up to 10,240 bytes
MAX_COUNT = 10_000  # of storages or tensors
MEMBERS = {"sys_info", "storages", "tensors", "pickle"}
HARMLESS = re.compile(rb"([0-9]+ (mtime|atime|ctime)=[0-9.]+\n)*")  # of a pax header


def is_tar(head: bytes) -> bool:
    """Whether a file that starts with this block can be a tar archive."""
    return head[257:262] == b"ustar"


def read_legacy_tar(source: Source, budget: Budget) -> Checkpoint:
    """The checkpoint; the state of modules too."""
    members = _read_members(source)
    storages = _read_storages(_stream(source, members["storages"]), budget)
    tensors = _read_tensors(_stream(source, members["tensors"]), budget, storages)

    def resolve(key: Any) -> Any:
        if type(key) is tuple and key:
            return key[0]  # the class of a module, with its source
        if type(key) is not str or key not in tensors:
            raise CheckpointError("missing-storage", f"there is no tensor {sketch(key)}")
        return tensors[key]

    stream = _stream(source, members["pickle"])
    result = run_pickle(stream, budget, persistent=resolve)
    _refuse_rest(stream)
    built = [t for t in tensors.values() if isinstance(t, Tensor)]
    named = name_tensors(
        result.value, budget=budget, opcodes=result.opcodes, members=module_members, built=built
    )
    return Checkpoint(source.path, "torch legacy tar", named)


def _read_members(source: Source) -> dict[str, tuple[int, int]]:
    """Offset and end of each member."""
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
            raise CheckpointError("truncated", f"member {shown(name)!r} ends early", offset=start)
        if kind == b"x":
            if size > BLOCK or not HARMLESS.fullmatch(source.read(start, size)):
                raise CheckpointError(
                    "tar-entry", "a pax header sets more than times", offset=start
                )
            continue
        if name not in MEMBERS or name in members:
            raise CheckpointError(
                "tar-entry", f"member {shown(name)!r} is unknown or there twice", offset=start
            )
        members[name] = (start, start + size)
    rest = source.size - position
    if rest > MAX_PADDING or any(source.read(position, rest)):
        raise CheckpointError("trailing-bytes", "bytes follow the end mark", offset=position)
    if members.keys() != MEMBERS:
        missing = ", ".join(sorted(MEMBERS - members.keys()))
        raise CheckpointError("tar-entry", f"this is no checkpoint of torch: it lacks {missing}")
    return members


def _parse_header(header: bytes, at: int) -> tuple[str, bytes, int]:
    """Name, type and size. Fields: POSIX ustar."""
    checksum = sum(header[:148]) + 8 * 0x20 + sum(header[156:])
    kind = header[156:157]
    name = header[:100].rstrip(b"\0").decode("latin1").removeprefix("./")
    prefix, link = header[345:500].rstrip(b"\0"), header[157:257].rstrip(b"\0")
    size = re.fullmatch(rb"([0-7]{1,11})[ \0]*", header[124:136])
    stated = re.fullmatch(rb" *([0-7]{1,7})[ \0]*", header[148:156])
    if not is_tar(header) or size is None or stated is None or int(stated[1], 8) != checksum:
        raise CheckpointError("tar-entry", "a header is malformed", offset=at)
    if kind not in (b"0", b"\0", b"x") or link or prefix:
        raise CheckpointError("tar-entry", f"{shown(name)!r} is no plain file", offset=at)
    return name, kind, int(size[1], 8)


def _read_storages(stream: Stream, budget: Budget) -> dict[Any, Storage]:
    storages: dict[Any, Storage] = {}
    for _ in range(_count(stream, budget)):
        item = run_pickle(stream, budget).value
        if type(item) is not tuple or len(item) != 3 or not isinstance(item[2], StorageType):
            raise stream.malformed("a storage is not described by key, location and type")
        key, _location, kind = item
        numel = stream.number("<q")
        width = 1 if kind.dtype is None else kind.dtype.itemsize
        if numel < 0 or numel * width > stream.remaining:
            raise CheckpointError(
                "truncated", f"a storage has {numel} elements", offset=stream.offset
            )
        span = stream.span(numel * width)
        storage = Storage(stream.source, span.offset, span.length, dtype=kind.dtype)
        _add(storages, key, storage, stream)
    views = run_pickle(stream, budget).value
    if type(views) is not list:
        raise stream.malformed("the views of storages are no list")
    for view in views:
        _add_view(storages, view, stream)
    _refuse_rest(stream)
    return storages


def _add_view(storages: dict[Any, Storage], view: Any, stream: Stream) -> None:
    """(key, key of the root, offset, size), in elements."""
    if type(view) is not tuple or len(view) != 4 or not all(type(n) is int for n in view):
        raise stream.malformed("a view of a storage is not four numbers")
    key, root_key, start, size = view
    root = storages.get(root_key)
    if root is None or root.dtype is None:
        raise CheckpointError("missing-storage", f"a view is of storage {root_key}: there is none")
    width = root.dtype.itemsize
    if start < 0 or size < 0 or (start + size) * width > root.nbytes:
        raise CheckpointError("tensor-bounds", "a view reaches outside its storage")
    offset = root.offset + start * width
    _add(storages, key, Storage(root.source, offset, size * width, dtype=root.dtype), stream)


def _read_tensors(
    stream: Stream, budget: Budget, storages: dict[Any, Storage]
) -> dict[str, Tensor]:
    """By key as text: that is how `pickle` names them."""
    tensors: dict[str, Tensor] = {}
    for _ in range(_count(stream, budget)):
        item = run_pickle(stream, budget).value
        if type(item) is not tuple or len(item) != 3:
            raise stream.malformed("a tensor is not described by key, storage and type")
        key, storage_key, _kind = item
        storage = storages.get(storage_key) if type(storage_key) in (int, str) else None
        if storage is None or storage.dtype is None:
            raise CheckpointError("missing-storage", f"storage {sketch(storage_key)} is missing")
        ndim = stream.number("<i")
        stream.take(4)  # ndim was once written as eight bytes
        if not 0 <= ndim <= MAX_NDIM:
            raise CheckpointError("tensor-shape", f"a tensor has {ndim} dimensions")
        numbers = struct.unpack(f"<{2 * ndim + 1}q", stream.take(16 * ndim + 8))
        shape, strides, offset = numbers[:ndim], numbers[ndim:-1], numbers[-1]
        tensor = make_tensor(
            storage, storage.dtype, shape, budget=budget, strides=strides, offset=offset
        )
        _add(tensors, str(key) if type(key) is int else key, tensor, stream)
    _refuse_rest(stream)
    return tensors


def _count(stream: Stream, budget: Budget) -> int:
    count = run_pickle(stream, budget).value
    if type(count) is not int or not 0 <= count <= MAX_COUNT:
        raise stream.malformed("how many there are is not stated, or is more than any model has")
    return count


def _add(target: dict[Any, Any], key: Any, value: Any, stream: Stream) -> None:
    if type(key) not in (int, str) or key in target:
        raise CheckpointError(
            "storage-key", f"{sketch(key)} is no key, or is one twice", offset=stream.offset
        )
    target[key] = value


def _refuse_rest(stream: Stream) -> None:
    if stream.remaining:
        raise CheckpointError("trailing-bytes", "bytes follow the end", offset=stream.offset)


def _stream(source: Source, member: tuple[int, int]) -> Stream:
    return Stream(source, *member)
