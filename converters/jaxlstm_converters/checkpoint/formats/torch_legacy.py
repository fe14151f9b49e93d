"""The stream that torch.save wrote before torch 1.6.

Five pickles (magic number, protocol version, system, the object, the keys of its storages) are
followed by the storages in the order of the keys: the number of elements as int64, then the
elements. The elements are little-endian even if the writer was big-endian
(torch/csrc/serialization.cpp).
"""

from __future__ import annotations

import struct
from typing import Any

from ..checkpoint import Checkpoint
from ..errors import CheckpointError, describe, printable
from ..io.budget import Budget
from ..io.source import Source
from ..io.storage import Storage
from ..io.stream import ByteReader, Span
from ..pickle._name_tensors import name_tensors
from ..pickle._run_pickle import PickleResult, run_pickle
from ..pickle.machine import PickleMachine
from ..pickle.values import GlobalName
from .torch_zip import parse_storage_id

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001


class LegacyStorages:
    """Storages that the object refers to before their bytes appear in the stream.

    `place` sets their offsets; no tensor is read earlier. `views` are parts of a storage with their
    own keys, as torch wrote them up to 0.4.
    """

    def __init__(self, file_size: int) -> None:
        self._file_size = file_size
        self._by_key: dict[str, Storage] = {}
        self._itemsize: dict[str, int] = {}
        # By key of the view: its storage, the key of the storage that it is a part of, and its start.
        self._views: dict[str, tuple[Storage, str, int]] = {}

    def resolve(self, persistent_id: Any) -> Any:
        """Return a storage, or the class of a module that was stored with its source code."""
        is_module = (
            type(persistent_id) is tuple
            and len(persistent_id) == 4
            and persistent_id[0] == "module"
        )
        if is_module:
            return persistent_id[1]
        kind, key, numel = parse_storage_id(persistent_id)
        if isinstance(kind, GlobalName):
            raise CheckpointError(
                "unsupported-tensor", f"a storage has type {kind}, which is not supported"
            )
        itemsize = 1 if kind.dtype is None else kind.dtype.itemsize
        if key not in self._by_key:
            if numel * itemsize > self._file_size:
                raise CheckpointError(
                    "truncated",
                    f"storage {key} declares {numel * itemsize} bytes, more than the file has",
                )
            self._by_key[key] = Storage(None, 0, numel * itemsize)
            self._itemsize[key] = itemsize
        storage = self._by_key[key]
        if storage.nbytes != numel * itemsize:
            raise CheckpointError("storage-size", f"storage {key} is declared with two sizes")
        if kind.dtype is not None:
            storage.use_as(kind.dtype)
        view = persistent_id[5] if len(persistent_id) > 5 else None
        return storage if view is None else self._view(view, key, numel, itemsize)

    def _view(self, view: Any, root: str, numel: int, itemsize: int) -> Storage:
        if type(view) is not tuple or len(view) != 3 or not all(type(n) is int for n in view[1:]):
            raise CheckpointError(
                "pickle-malformed", f"a view of storage {root} is not (key, start, size)"
            )
        key, start, size = view
        if type(key) is not str or not 0 <= start <= start + size <= numel or size < 0:
            raise CheckpointError("tensor-bounds", f"a view extends beyond storage {root}")
        known = self._views.get(key)
        if known is None:
            storage = Storage(None, 0, size * itemsize, dtype=self._by_key[root].dtype)
            known = self._views[key] = (storage, root, start * itemsize)
        if known[1:] != (root, start * itemsize) or known[0].nbytes != size * itemsize:
            raise CheckpointError(
                "storage-size", f"view {printable(key)} is declared with two ranges"
            )
        return known[0]

    def place(self, source: Source, keys: Any, position: int) -> int:
        """Set the offsets of the storages, which start at `position`; return where they end."""
        is_texts = type(keys) is list and all(type(key) is str for key in keys)
        if not is_texts or sorted(keys) != sorted(self._by_key):
            raise CheckpointError(
                "missing-storage",
                "the file does not hold exactly the storages that its tensors use",
                offset=position,
            )
        for key in keys:
            storage = self._by_key[key]
            (numel,) = struct.unpack("<q", source.read(position, 8))
            nbytes = numel * self._itemsize[key]
            if nbytes != storage.nbytes:
                raise CheckpointError(
                    "storage-size",
                    f"storage {key} has {nbytes} bytes, but the pickle declares {storage.nbytes}",
                    offset=position,
                )
            storage.source, storage.offset = source, position + 8
            position += 8 + storage.nbytes
            if position > source.size:
                raise CheckpointError(
                    "truncated", f"the file ends within storage {key}", offset=storage.offset
                )
        for storage, root, start in self._views.values():
            storage.source, storage.offset = source, self._by_key[root].offset + start
        return position


def read_legacy(source: Source, position: int, budget: Budget) -> Checkpoint:
    """Read the checkpoint whose magic number ends at `position`."""
    checkpoint = Checkpoint(source.path, "torch legacy")
    result = _read_body(ByteReader(source, position, source.size), budget)
    name_tensors(checkpoint, result, budget=budget)
    return checkpoint


def read_nested_storage(outer: PickleMachine, span: Span) -> Storage:
    """Read a storage in a plain pickle: a legacy stream whose object is the storage."""
    stream = ByteReader(span.source, span.offset, span.offset + span.length)
    memory = outer.budget.memory
    magic = run_pickle(stream, outer.budget).value
    if magic != MAGIC_NUMBER:
        raise CheckpointError("legacy-header", "a storage does not start with torch's magic number")
    result = _read_body(stream, outer.budget)
    # Only the storage outlives this call, so the memory of the other values is free again.
    outer.budget.memory = memory
    outer.charge(result.opcodes)
    if not isinstance(result.value, Storage):
        raise CheckpointError(
            "legacy-header",
            f"the bytes of a storage hold {describe(result.value)} instead",
            offset=span.offset,
        )
    return result.value


def _read_body(stream: ByteReader, budget: Budget) -> PickleResult:
    """Read the stream after the magic number, up to its end."""
    source, end = stream.source, stream.offset + stream.remaining
    version = run_pickle(stream, budget).value
    if version != PROTOCOL:
        raise CheckpointError(
            "legacy-header",
            f"the protocol version is {describe(version)}, expected {PROTOCOL}",
            offset=stream.offset,
        )
    writer = run_pickle(stream, budget).value
    if not isinstance(writer, dict) or type(writer.get("little_endian")) is not bool:
        raise CheckpointError(
            "legacy-header", "the system information has no byte order", offset=stream.offset
        )
    storages = LegacyStorages(source.size)
    result = run_pickle(stream, budget, persistent=storages.resolve)
    keys = run_pickle(stream, budget).value
    position = storages.place(source, keys, stream.offset)
    if position > end:
        raise CheckpointError("truncated", "the file ends within a storage", offset=end)
    if position != end:
        raise CheckpointError(
            "trailing-bytes", f"{end - position} bytes follow the last storage", offset=position
        )
    return result
