"""The zip container of torch.save (torch 1.6 and later).

`PREFIX/data.pkl` is a pickle in which a storage is a persistent id
("storage", type, key, location, numel); its bytes are the entry `PREFIX/data/KEY`.
`PREFIX/byteorder` says "little" or "big". The device of the location is ignored: bytes are bytes.
"""

from __future__ import annotations

import re
from typing import Any

from ..checkpoint import Checkpoint
from ..errors import CheckpointError, shown, sketch
from ..io.source import Source
from ..io.storage import Budget, Storage
from ..io.stream import Stream
from ..io.zip_archive import Entry, read_entry, verify_crc
from ..pickle._name_tensors import name_tensors
from ..pickle._run_pickle import PickleResult, run_pickle
from ..pickle.modules import module_members
from ..pickle.values import Global, Refused, StorageType

MAX_PICKLE = 256 << 20
STORAGE_KEY = re.compile(r"[0-9]{1,20}", re.ASCII)


class ZipStorages:
    """The storages of one directory of an archive, by key, each once.

    Args:
        source: the file.
        entries: its entries.
        folder: where the storages are: "PREFIX/data/".
        swapped: the elements are big-endian.
        check_crc: compare checksums.
    """

    def __init__(
        self,
        source: Source,
        entries: dict[str, Entry],
        folder: str,
        *,
        swapped: bool,
        check_crc: bool,
    ) -> None:
        self._source = source
        self._entries = entries
        self._folder = folder
        self._swapped = swapped
        self._check_crc = check_crc
        self._by_key: dict[str, Storage] = {}

    def resolve(self, key: Any) -> Storage | Refused:
        """The storage that a persistent id names."""
        kind, name, numel = parse_storage_id(key)
        if isinstance(kind, Global):
            return Refused(f"tensor over {kind}")
        storage = self._by_key.get(name)
        if storage is None:
            storage = self._by_key[name] = self._open(name)
        if kind.dtype is not None:
            storage.use_as(kind.dtype)
        wanted = numel * (1 if kind.dtype is None else kind.dtype.itemsize)
        if wanted != storage.nbytes:
            raise CheckpointError(
                "storage-size",
                f"storage {name} has {storage.nbytes} bytes and its pickle says {wanted}",
                offset=storage.offset,
            )
        return storage

    def _open(self, key: str) -> Storage:
        entry = self._entries.get(self._folder + key)
        if entry is None:
            raise CheckpointError("missing-storage", f"the archive has no {self._folder}{key}")
        crc = entry.crc if self._check_crc else None
        return Storage(self._source, entry.offset, entry.size, self._swapped, crc)


def parse_storage_id(key: Any) -> tuple[StorageType | Global, str, int]:
    """Type, key and number of elements of ("storage", type, key, location, numel, ...)."""
    if type(key) is not tuple or len(key) < 5 or key[0] != "storage":
        raise CheckpointError("pickle-malformed", "a persistent id is not that of a storage")
    _, kind, name, _location, numel = key[:5]
    if not isinstance(kind, StorageType | Global):
        raise CheckpointError("pickle-malformed", "a storage has no type")
    if type(name) is not str or not STORAGE_KEY.fullmatch(name):
        raise CheckpointError("storage-key", f"{sketch(name)} is no key of a storage")
    if type(numel) is not int or not 0 <= numel < 1 << 60:
        raise CheckpointError(
            "storage-size", f"storage {name} cannot have {sketch(numel)} elements"
        )
    return kind, name, numel


def read_torch_zip(
    source: Source, entries: dict[str, Entry], prefix: str, budget: Budget, *, check_crc: bool
) -> Checkpoint:
    """The checkpoint under `prefix`, such as "archive/"."""
    storages = ZipStorages(
        source,
        entries,
        f"{prefix}data/",
        swapped=is_big_endian(source, entries, prefix, check_crc),
        check_crc=check_crc,
    )
    result = run_entry(source, entries[f"{prefix}data.pkl"], storages, budget, check_crc)
    named = name_tensors(
        result.value,
        budget=budget,
        opcodes=result.opcodes,
        members=module_members,
        built=result.tensors,
    )
    return Checkpoint(source.path, "torch zip", named)


def run_entry(
    source: Source, entry: Entry, storages: ZipStorages, budget: Budget, check_crc: bool
) -> PickleResult:
    """The value of a pickle that is an entry of its own, and the machine that built it."""
    if entry.size > MAX_PICKLE:
        raise CheckpointError(
            "pickle-budget", f"a pickle of {entry.size} bytes is too large", offset=entry.offset
        )
    if check_crc:
        verify_crc(source, entry)
    stream = Stream(source, entry.offset, entry.offset + entry.size)
    result = run_pickle(stream, budget, persistent=storages.resolve)
    if stream.remaining:
        raise CheckpointError(
            "trailing-bytes", "bytes follow the end of the pickle", offset=stream.offset
        )
    return result


def is_big_endian(source: Source, entries: dict[str, Entry], prefix: str, check_crc: bool) -> bool:
    """What the archive says; before torch 2.1 it said nothing and was little-endian."""
    entry = entries.get(f"{prefix}byteorder")
    if entry is None:
        return False
    order = read_entry(source, entry, 16, check_crc) if entry.size <= 16 else b"?"
    if order not in (b"little", b"big"):
        raise CheckpointError(
            "byteorder", f"byte order {shown(repr(order))} is unknown", offset=entry.offset
        )
    return order == b"big"
