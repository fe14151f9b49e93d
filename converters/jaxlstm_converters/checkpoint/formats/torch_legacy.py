"""Files that start with a pickle: pickle.dump of arrays or tensors, or torch.save before 1.6.

The legacy format of torch.save has five pickles (magic number, protocol version, system, the object, the keys
of its storages), followed by the storages in the order of the keys: the number of elements as int64, then the
elements. The elements are little-endian even if the writer was big-endian (torch/csrc/serialization.cpp).
"""

import struct
from dataclasses import dataclass, field
from typing import Any

from ..checkpoint import Checkpoint
from ..errors import CheckpointError, describe
from ..io._make_tensor import Budget
from ..io.files import CheckpointFile
from ..io.storage import ByteReader, Span, Storage
from ..pickle._name_tensors import name_tensors
from ..pickle._run_pickle import run_pickle
from ..pickle.machine import PickleMachine
from ..pickle.values import GlobalName
from .torch_zip import parse_storage_id

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001


@dataclass(slots=True)
class LegacyStorages:
    """Storages that the object refers to before their bytes appear in the stream.

    `place` sets their offsets; no tensor is read earlier.
    """

    file_size: int
    # With the size of an element.
    _by_key: dict[str, tuple[Storage, int]] = field(default_factory=dict)

    def resolve(self, persistent_id: Any) -> Any:
        """Return a storage, or the class of a module that was stored with its source code."""
        is_tuple = type(persistent_id) is tuple and len(persistent_id) == 4
        if is_tuple and persistent_id[0] == "module":
            return persistent_id[1]
        kind, key, numel = parse_storage_id(persistent_id)
        if isinstance(kind, GlobalName):
            message = f"a storage has type {kind}, which is not supported"
            raise CheckpointError("unsupported-tensor", message)
        if len(persistent_id) > 5 and persistent_id[5] is not None:
            message = f"storage {key} is a view of another one, as torch wrote it up to 0.4"
            raise CheckpointError("unsupported-tensor", f"{message}; save the file with a later torch")
        itemsize = kind.itemsize
        if key not in self._by_key:
            if numel * itemsize > self.file_size:
                message = f"storage {key} declares {numel * itemsize} bytes, more than the file has"
                raise CheckpointError("truncated", message)
            self._by_key[key] = Storage(None, 0, numel * itemsize), itemsize
        storage, _ = self._by_key[key]
        if storage.nbytes != numel * itemsize:
            raise CheckpointError("storage-size", f"storage {key} is declared with two sizes")
        if kind.dtype is not None:
            storage.use_as(kind.dtype)
        return storage

    def place(self, source: CheckpointFile, keys: Any, position: int) -> int:
        """Set the offsets of the storages, which start at `position`; return where they end."""
        is_texts = type(keys) is list and all(type(key) is str for key in keys)
        if not is_texts or sorted(keys) != sorted(self._by_key):
            message = "the file does not hold exactly the storages that its tensors use"
            raise CheckpointError("missing-storage", message, position)
        for key in keys:
            storage, itemsize = self._by_key[key]
            (numel,) = struct.unpack("<q", source.read(position, 8))
            nbytes = numel * itemsize
            if nbytes != storage.nbytes:
                raise CheckpointError(
                    "storage-size",
                    f"storage {key} has {nbytes} bytes, but the pickle declares {storage.nbytes}",
                    position,
                )
            storage.source, storage.offset = source, position + 8
            position += 8 + storage.nbytes
            if position > source.size:
                message = f"the file ends within storage {key}"
                raise CheckpointError("truncated", message, storage.offset)
        return position


def read_pickle(source: CheckpointFile, budget: Budget) -> Checkpoint:
    """Read one pickle, or the legacy stream after it if it is torch's magic number."""
    stream = ByteReader(source, 0, source.size)
    result = run_pickle(stream, budget, nested=read_nested_storage)
    container = "torch pickle" if result.nested_storages else "numpy pickle"
    if type(result.value) is int:
        if result.value != MAGIC_NUMBER:
            message = "the file starts with a pickled integer that is not torch's magic number"
            raise CheckpointError("legacy-header", message, 0)
        container = "torch legacy"
        result = _read_body(stream, budget)
    else:
        stream.require_end()
    checkpoint = Checkpoint(source.path, container)
    name_tensors(checkpoint, result, budget=budget)
    return checkpoint


def read_nested_storage(outer: PickleMachine, span: Span) -> Storage:
    """Read a storage in a plain pickle: a legacy stream whose object is the storage."""
    stream = span.stream()
    memory = outer.budget.memory
    if run_pickle(stream, outer.budget).value != MAGIC_NUMBER:
        raise CheckpointError("legacy-header", "a storage does not start with torch's magic number")
    result = _read_body(stream, outer.budget)
    # Only the storage outlives this call, so the memory of the other values is free again.
    outer.budget.memory = memory
    outer.charge(result.opcodes)
    if not isinstance(result.value, Storage):
        message = f"the bytes of a storage hold {describe(result.value)} instead"
        raise CheckpointError("legacy-header", message, span.offset)
    return result.value


def _read_body(stream: ByteReader, budget: Budget) -> PickleMachine:
    """Read the stream after the magic number, up to its end."""
    source, end = stream.source, stream.offset + stream.remaining
    version = run_pickle(stream, budget).value
    if version != PROTOCOL:
        message = f"the protocol version is {describe(version)}, expected {PROTOCOL}"
        raise CheckpointError("legacy-header", message, stream.offset)
    writer = run_pickle(stream, budget).value
    if not isinstance(writer, dict) or type(writer.get("little_endian")) is not bool:
        message = "the system information has no byte order"
        raise CheckpointError("legacy-header", message, stream.offset)
    storages = LegacyStorages(source.size)
    result = run_pickle(stream, budget, persistent=storages.resolve)
    position = storages.place(source, run_pickle(stream, budget).value, stream.offset)
    if position > end:
        raise CheckpointError("truncated", "the file ends within a storage", end)
    if position != end:
        message = f"{end - position} bytes follow the last storage"
        raise CheckpointError("trailing-bytes", message, position)
    return result
