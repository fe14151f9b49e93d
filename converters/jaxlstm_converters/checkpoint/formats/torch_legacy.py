"""The stream that torch.save wrote before torch 1.6.

Five pickles (magic number, protocol version, system, the object, the keys of its storages), then
each storage in the order of the keys: number of elements as int64, then the elements. The writer
turns everything into little-endian, on big-endian machines too (torch/csrc/serialization.cpp).
"""

from __future__ import annotations

import struct
from typing import Any

from ..checkpoint import Checkpoint
from ..errors import CheckpointError, shown, sketch
from ..io.source import Source
from ..io.storage import Budget, Storage
from ..io.stream import Span, Stream
from ..pickle._name_tensors import name_tensors
from ..pickle._run_pickle import PickleResult, run_pickle
from ..pickle.machine import PickleMachine
from ..pickle.modules import module_members
from ..pickle.values import Global
from .torch_zip import parse_storage_id

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001


class LegacyStorages:
    """Storages that the object names before their bytes come.

    Their offsets are set by `place`; no tensor is read earlier. `views` are parts of a storage
    that have keys of their own, as torch wrote them until 0.4.
    """

    def __init__(self, file_size: int) -> None:
        self._file_size = file_size
        self._by_key: dict[str, Storage] = {}
        self._width: dict[str, int] = {}
        self._views: dict[str, tuple[Storage, str, int]] = {}

    def resolve(self, key: Any) -> Any:
        """What a persistent id stands for: a storage, or the class of a module with its source."""
        if type(key) is tuple and len(key) == 4 and key[0] == "module":
            return key[1]
        kind, name, numel = parse_storage_id(key)
        if isinstance(kind, Global):
            raise CheckpointError(
                "unsupported-tensor", f"a storage of type {kind} is not read here"
            )
        width = 1 if kind.dtype is None else kind.dtype.itemsize
        if name not in self._by_key:
            if numel * width > self._file_size:
                raise CheckpointError(
                    "truncated", f"storage {name} of {numel} elements is larger than the file"
                )
            self._by_key[name] = Storage(None, 0, numel * width)
            self._width[name] = width
        storage = self._by_key[name]
        if storage.nbytes != numel * width:
            raise CheckpointError("storage-size", f"storage {name} is stated with two sizes")
        if kind.dtype is not None:
            storage.use_as(kind.dtype)
        view = key[5] if len(key) > 5 else None
        return storage if view is None else self._view(view, name, numel, width)

    def _view(self, view: Any, root: str, numel: int, width: int) -> Storage:
        if type(view) is not tuple or len(view) != 3 or not all(type(n) is int for n in view[1:]):
            raise CheckpointError("pickle-malformed", "a view of a storage is not described")
        key, start, size = view
        if type(key) is not str or not 0 <= start <= start + size <= numel or size < 0:
            raise CheckpointError("tensor-bounds", f"a view reaches outside storage {root}")
        known = self._views.get(key)
        if known is None:
            storage = Storage(None, 0, size * width, dtype=self._by_key[root].dtype)
            known = self._views[key] = (storage, root, start * width)
        if known[1:] != (root, start * width) or known[0].nbytes != size * width:
            raise CheckpointError("storage-size", f"view {shown(key)} is described in two ways")
        return known[0]

    def place(self, source: Source, keys: Any, position: int) -> int:
        """Find the bytes of the storages from `position` on; gives where they end."""
        texts = type(keys) is list and all(type(key) is str for key in keys)
        if not texts or sorted(keys) != sorted(self._by_key):
            raise CheckpointError(
                "missing-storage",
                "the storages that the tensors need are not those of the file",
                offset=position,
            )
        for key in keys:
            storage = self._by_key[key]
            (numel,) = struct.unpack("<q", source.read(position, 8))
            if numel * self._width[key] != storage.nbytes:
                raise CheckpointError(
                    "storage-size",
                    f"storage {key} has {numel} elements and its pickle says another number",
                    offset=position,
                )
            storage.source, storage.offset = source, position + 8
            position += 8 + storage.nbytes
            if position > source.size:
                raise CheckpointError(
                    "truncated", f"the bytes of storage {key} end early", offset=storage.offset
                )
        for storage, root, start in self._views.values():
            storage.source, storage.offset = source, self._by_key[root].offset + start
        return position


def read_legacy(source: Source, position: int, budget: Budget) -> Checkpoint:
    """The checkpoint whose magic number ends at `position`."""
    stream = Stream(source, position, source.size)
    result = _read_body(stream, budget)
    named = name_tensors(
        result.value,
        budget=budget,
        opcodes=result.opcodes,
        members=module_members,
        built=result.tensors,
    )
    return Checkpoint(source.path, "torch legacy", named)


def read_nested_storage(outer: PickleMachine, span: Span) -> Storage:
    """The storage that pickle.dump of a tensor writes: a whole legacy stream that holds just it."""
    stream = Stream(span.source, span.offset, span.offset + span.length)
    memory = outer.budget.memory
    magic = run_pickle(stream, outer.budget).value
    if magic != MAGIC_NUMBER:
        raise CheckpointError("legacy-header", "a storage does not start with torch's magic number")
    result = _read_body(stream, outer.budget)
    outer.budget.memory = memory  # of all that was built, the storage alone is kept
    outer.charge(result.opcodes)
    if not isinstance(result.value, Storage):
        raise CheckpointError(
            "legacy-header", "what should be a storage is not", offset=span.offset
        )
    return result.value


def _read_body(stream: Stream, budget: Budget) -> PickleResult:
    """Everything after the magic number, up to the end of the stream."""
    source, end = stream.source, stream.offset + stream.remaining
    version = run_pickle(stream, budget).value
    if version != PROTOCOL:
        raise CheckpointError(
            "legacy-header",
            f"protocol {sketch(version)} is not {PROTOCOL}",
            offset=stream.offset,
        )
    writer = run_pickle(stream, budget).value
    if not isinstance(writer, dict) or type(writer.get("little_endian")) is not bool:
        raise CheckpointError(
            "legacy-header", "the byte order of the writer is not stated", offset=stream.offset
        )
    storages = LegacyStorages(source.size)
    result = run_pickle(stream, budget, persistent=storages.resolve)
    keys = run_pickle(stream, budget).value
    position = storages.place(source, keys, stream.offset)
    if position > end:
        raise CheckpointError("truncated", "the storages end early", offset=end)
    if position != end:
        raise CheckpointError("trailing-bytes", "bytes follow the last storage", offset=position)
    return result
