"""TorchScript archives (torch.jit.save): the tensors in `data.pkl` and `constants.pkl`.

The pickle describes an object of a compiled class by its attributes: parameters, buffers and
submodules by name. The folder `code/` holds the program, which is neither parsed nor decompressed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..checkpoint import Checkpoint
from ..errors import CheckpointError
from ..io.budget import Budget
from ..io.source import Source
from ..io.zip_archive import Entry, refuse_compressed
from ..pickle._name_tensors import name_tensors
from ..pickle.modules import Member
from ..pickle.values import Placeholder
from .torch_zip import ZipStorages, is_big_endian, run_entry


def is_torchscript(entries: dict[str, Entry], prefix: str) -> bool:
    """Return True for a TorchScript archive, by the same rule as torch.load."""
    return f"{prefix}constants.pkl" in entries


def read_torchscript(
    source: Source, entries: dict[str, Entry], prefix: str, budget: Budget, *, check_crc: bool
) -> Checkpoint:
    """Read the tensors under their state_dict() names, and constants as "CONSTANTS.c0" etc."""
    code = f"{prefix}code/"
    refuse_compressed(entry for name, entry in entries.items() if not name.startswith(code))
    big_endian = is_big_endian(source, entries, prefix, check_crc)
    checkpoint = Checkpoint(source.path, "TorchScript")
    constants = Checkpoint(source.path, "TorchScript")
    for part, target in (("data", checkpoint), ("constants", constants)):
        folder = f"{prefix}{part}/"
        storages = ZipStorages(source, entries, folder, big_endian=big_endian, check_crc=check_crc)
        entry = entries[f"{prefix}{part}.pkl"]
        result = run_entry(source, entry, storages, budget, check_crc)
        if target is constants:
            if type(result.value) is not tuple:
                raise CheckpointError(
                    "zip-layout", "the constants are not a tuple", offset=entry.offset
                )
            named = {f"c{index}": value for index, value in enumerate(result.value)}
            result = replace(result, value={"CONSTANTS": named})
        name_tensors(target, result, budget=budget, members=_attributes)
    checkpoint.warnings += constants.warnings
    for name, tensor in constants.items():
        checkpoint.add(name, tensor)
    return checkpoint


def _attributes(value: Placeholder) -> Iterator[Member] | None:
    """Return the attributes of an object of a compiled class; None for any other object."""
    if not value.cls.module.startswith("__torch__") or not isinstance(value.state, dict):
        return None
    return ((n if type(n) is str else None, member) for n, member in value.state.items())
