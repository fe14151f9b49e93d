"""The zip format of torch.save since torch 1.6.

`PREFIX/data.pkl` is a pickle in which a storage is a persistent id
("storage", type, key, location, numel), and the entry `PREFIX/data/KEY` holds its bytes.
`PREFIX/byteorder` is "little" or "big". The location, a device, is ignored.
"""

from __future__ import annotations

import re
from typing import Any

from ..checkpoint import Checkpoint
from ..errors import CheckpointError, describe, printable
from ..io.budget import Budget
from ..io.source import Source
from ..io.storage import Storage
from ..io.stream import ByteReader
from ..io.zip_archive import Entry, read_entry, verify_crc
from ..pickle._name_tensors import name_tensors
from ..pickle._run_pickle import PickleResult, run_pickle
from ..pickle.values import GlobalName, StorageType, UnsupportedTensor

MAX_PICKLE = 256 << 20
STORAGE_KEY = re.compile(r"[0-9]{1,20}", re.ASCII)


class ZipStorages:
    """The storages in one folder of an archive, by key.

    Args:
        source: the file.
        entries: the entries of the archive.
        folder: the path of the storages, such as "PREFIX/data/".
        big_endian: the byte order of the elements.
        check_crc: compare checksums.
    """

    def __init__(
        self,
        source: Source,
        entries: dict[str, Entry],
        folder: str,
        *,
        big_endian: bool,
        check_crc: bool,
    ) -> None:
        self._source = source
        self._entries = entries
        self._folder = folder
        self._big_endian = big_endian
        self._check_crc = check_crc
        self._by_key: dict[str, Storage] = {}

    def resolve(self, persistent_id: Any) -> Storage | UnsupportedTensor:
        """Return the storage with this persistent id."""
        kind, key, numel = parse_storage_id(persistent_id)
        if isinstance(kind, GlobalName):
            return UnsupportedTensor(f"tensor over {kind}")
        storage = self._by_key.get(key)
        if storage is None:
            storage = self._by_key[key] = self._open(key)
        if kind.dtype is not None:
            storage.use_as(kind.dtype)
        declared = numel * (1 if kind.dtype is None else kind.dtype.itemsize)
        if declared != storage.nbytes:
            raise CheckpointError(
                "storage-size",
                f"storage {key} has {storage.nbytes} bytes, but the pickle declares {declared}",
                offset=storage.offset,
            )
        return storage

    def _open(self, key: str) -> Storage:
        entry = self._entries.get(self._folder + key)
        if entry is None:
            raise CheckpointError(
                "missing-storage", f"the archive has no entry {printable(self._folder)}{key}"
            )
        crc = entry.crc if self._check_crc else None
        return Storage(self._source, entry.offset, entry.size, self._big_endian, crc)


def parse_storage_id(persistent_id: Any) -> tuple[StorageType | GlobalName, str, int]:
    """Return type, key and number of elements of ("storage", type, key, location, numel, ...)."""
    if type(persistent_id) is not tuple or len(persistent_id) < 5 or persistent_id[0] != "storage":
        raise CheckpointError(
            "pickle-malformed",
            f"a persistent id is {describe(persistent_id)}, expected a tuple that describes a storage",
        )
    _, kind, key, _location, numel = persistent_id[:5]
    if not isinstance(kind, StorageType | GlobalName):
        raise CheckpointError("pickle-malformed", f"the type of a storage is {describe(kind)}")
    if type(key) is not str or not STORAGE_KEY.fullmatch(key):
        raise CheckpointError(
            "storage-key", f"a storage has key {describe(key)}, expected a string of digits"
        )
    if type(numel) is not int or not 0 <= numel < 1 << 60:
        raise CheckpointError(
            "storage-size", f"storage {key} declares {describe(numel)} as its number of elements"
        )
    return kind, key, numel


def read_torch_zip(
    source: Source, entries: dict[str, Entry], prefix: str, budget: Budget, *, check_crc: bool
) -> Checkpoint:
    """Read the checkpoint under `prefix`, such as "archive/"."""
    checkpoint = Checkpoint(source.path, "torch zip")
    storages = ZipStorages(
        source,
        entries,
        f"{prefix}data/",
        big_endian=is_big_endian(source, entries, prefix, check_crc),
        check_crc=check_crc,
    )
    result = run_entry(source, entries[f"{prefix}data.pkl"], storages, budget, check_crc)
    name_tensors(checkpoint, result, budget=budget)
    return checkpoint


def run_entry(
    source: Source, entry: Entry, storages: ZipStorages, budget: Budget, check_crc: bool
) -> PickleResult:
    """Run the pickle that makes up a whole entry."""
    if entry.size > MAX_PICKLE:
        raise CheckpointError(
            "pickle-budget",
            f"the pickle has {entry.size} bytes; the limit is {MAX_PICKLE}",
            offset=entry.offset,
        )
    if check_crc:
        verify_crc(source, entry)
    stream = ByteReader(source, entry.offset, entry.offset + entry.size)
    result = run_pickle(stream, budget, persistent=storages.resolve)
    stream.require_end()
    return result


def is_big_endian(source: Source, entries: dict[str, Entry], prefix: str, check_crc: bool) -> bool:
    """Return the byte order of the archive. Before torch 2.1 it was always little-endian."""
    entry = entries.get(f"{prefix}byteorder")
    if entry is None:
        return False
    order = read_entry(source, entry, 16, check_crc) if entry.size <= 16 else b"?"
    if order not in (b"little", b"big"):
        raise CheckpointError(
            "byteorder",
            f"the byteorder entry is {printable(repr(order))}, expected b'little' or b'big'",
            offset=entry.offset,
        )
    return order == b"big"
