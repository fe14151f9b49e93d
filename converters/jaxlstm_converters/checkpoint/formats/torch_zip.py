"""The zip archives of torch.save since torch 1.6 and of TorchScript (torch.jit.save).

`PREFIX/data.pkl` is a pickle in which a storage is a persistent id
("storage", type, key, location, numel), and the entry `PREFIX/data/KEY` holds its bytes.
`PREFIX/byteorder` is "little" or "big". The location, a device, is ignored.

In TorchScript, the pickle describes an object of a compiled class by its attributes: parameters, buffers and
submodules by name. The entry `PREFIX/constants.pkl` holds more tensors. The folder `code/` holds the program,
which `jaxlstm_converters.torchscript` reads.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..checkpoint import Checkpoint
from ..errors import CheckpointError, describe
from ..io._make_tensor import Budget
from ..io.storage import Storage
from ..io.zip_archive import Archive
from ..pickle._name_tensors import Member, name_tensors
from ..pickle._run_pickle import run_pickle
from ..pickle.machine import PickleMachine
from ..pickle.values import GlobalName, Placeholder, StorageType, UnsupportedTensor
from .byteorder import is_big_endian

MAX_PICKLE = 256 << 20
OWN_METADATA = "jaxlstm"
MAX_METADATA = 1 << 16
STORAGE_KEY = re.compile(r"[0-9]{1,20}", re.ASCII)


@dataclass(slots=True)
class ZipStorages:
    """The storages in one folder of an archive, such as "PREFIX/data/", by key."""

    archive: Archive
    folder: str
    big_endian: bool
    _by_key: dict[str, Storage] = field(default_factory=dict)

    def resolve(self, persistent_id: Any) -> Storage | UnsupportedTensor:
        """Return the storage with this persistent id."""
        kind, key, numel = parse_storage_id(persistent_id)
        if isinstance(kind, GlobalName):
            return UnsupportedTensor(f"tensor over {kind}")
        storage = self._by_key.get(key)
        if storage is None:
            storage = self._by_key[key] = self.archive.storage(self.folder + key, self.big_endian)
        if kind.dtype is not None:
            storage.use_as(kind.dtype)
        declared = numel * kind.itemsize
        if declared != storage.nbytes:
            raise CheckpointError(
                "storage-size",
                f"storage {key} has {storage.nbytes} bytes, but the pickle declares {declared}",
                storage.offset,
            )
        return storage


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
        message = f"a storage has key {describe(key)}, expected a string of digits"
        raise CheckpointError("storage-key", message)
    if type(numel) is not int or not 0 <= numel < 1 << 60:
        message = f"storage {key} declares {describe(numel)} as its number of elements"
        raise CheckpointError("storage-size", message)
    return kind, key, numel


def root_folder(archive: Archive) -> str:
    """Return the folder that holds data.pkl and all other entries, such as "archive/"."""
    roots = [name for name in archive.entries if name.rpartition("/")[2] == "data.pkl"]
    if len(roots) != 1 or roots[0].count("/") != 1:
        raise CheckpointError(
            "zip-layout",
            f"the archive has {len(roots)} entries named data.pkl, expected one in a top-level folder; "
            "give the arrays of an .npz file to jaxlstm.from_torch, as dict(numpy.load(path))",
        )
    prefix = roots[0].removesuffix("data.pkl")
    archive.require_folder(prefix)
    return prefix


def read_torch_zip(archive: Archive, prefix: str, budget: Budget) -> Checkpoint:
    """Read the checkpoint under `prefix`, such as "archive/"."""
    archive.refuse_compressed()
    checkpoint = Checkpoint(archive.source.path, "torch zip")
    storages = ZipStorages(archive, f"{prefix}data/", is_big_endian(archive, prefix))
    name_tensors(checkpoint, run_entry(archive, f"{prefix}data.pkl", storages, budget), budget=budget)
    _read_own_metadata(checkpoint, archive, prefix)
    return checkpoint


def _read_own_metadata(checkpoint: Checkpoint, archive: Archive, prefix: str) -> None:
    """Add the text of the entry `jaxlstm`, which `jaxlstm.save` writes, to the metadata."""
    entry = archive.entries.get(f"{prefix}{OWN_METADATA}")
    if entry is not None and entry.size <= MAX_METADATA:
        text = archive.stream(entry).take(entry.size)
        checkpoint.metadata[OWN_METADATA] = text.decode("utf-8", "replace")


def run_entry(archive: Archive, name: str, storages: ZipStorages, budget: Budget) -> PickleMachine:
    """Run the pickle that makes up a whole entry."""
    entry = archive.entries[name]
    if entry.size > MAX_PICKLE:
        message = f"the pickle has {entry.size} bytes; the limit is {MAX_PICKLE}"
        raise CheckpointError("pickle-budget", message, entry.offset)
    stream = archive.stream(entry)
    result = run_pickle(stream, budget, persistent=storages.resolve)
    stream.require_end()
    return result


def is_torchscript(archive: Archive, prefix: str) -> bool:
    """Return True for a TorchScript archive, by the same rule as torch.load."""
    return f"{prefix}constants.pkl" in archive.entries


def run_torchscript(archive: Archive, prefix: str, budget: Budget) -> tuple[PickleMachine, PickleMachine]:
    """Run the pickles of the root object and of the constants, which are a tuple."""
    archive.refuse_compressed(except_folder=f"{prefix}code/")
    big_endian = is_big_endian(archive, prefix)
    root, constants = (
        run_entry(archive, f"{folder}.pkl", ZipStorages(archive, f"{folder}/", big_endian), budget)
        for folder in (f"{prefix}data", f"{prefix}constants")
    )
    if type(constants.value) is not tuple:
        raise CheckpointError("zip-layout", "the constants are not a tuple")
    return root, constants


def read_torchscript(archive: Archive, prefix: str, budget: Budget) -> Checkpoint:
    """Read the tensors under their state_dict() names, and constants as "CONSTANTS.c0" etc."""
    checkpoint = Checkpoint(archive.source.path, "TorchScript")
    constants = Checkpoint(archive.source.path, "TorchScript")
    root, code = run_torchscript(archive, prefix, budget)
    code.value = {"CONSTANTS": {f"c{index}": value for index, value in enumerate(code.value)}}
    name_tensors(checkpoint, root, budget=budget, members=_attributes)
    name_tensors(constants, code, budget=budget, members=_attributes)
    checkpoint.warnings += constants.warnings
    for name, tensor in constants.items():
        checkpoint.add(name, tensor)
    return checkpoint


def _attributes(value: Placeholder) -> Iterator[Member] | None:
    """Return the attributes of an object of a compiled class; None for any other object."""
    if not value.cls.module.startswith("__torch__") or not isinstance(value.state, dict):
        return None
    return ((n if type(n) is str else None, member) for n, member in value.state.items())
