"""TorchScript archives (torch.jit.save): the tensors in `data.pkl` and `constants.pkl`.

The pickle describes an object of a compiled class by its attributes: parameters, buffers and
submodules by name. The folder `code/` holds the program, which is neither parsed nor decompressed.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..checkpoint import Checkpoint
from ..errors import CheckpointError
from ..io.budget import Budget
from ..io.zip_archive import Archive
from ..pickle._name_tensors import name_tensors
from ..pickle.modules import Member
from ..pickle.values import Placeholder
from .byteorder import is_big_endian
from .torch_zip import ZipStorages, run_entry


def is_torchscript(archive: Archive, prefix: str) -> bool:
    """Return True for a TorchScript archive, by the same rule as torch.load."""
    return f"{prefix}constants.pkl" in archive.entries


def read_torchscript(archive: Archive, prefix: str, budget: Budget) -> Checkpoint:
    """Read the tensors under their state_dict() names, and constants as "CONSTANTS.c0" etc."""
    archive.refuse_compressed(except_folder=f"{prefix}code/")
    big_endian = is_big_endian(archive, prefix)
    checkpoint = Checkpoint(archive.source.path, "TorchScript")
    constants = Checkpoint(archive.source.path, "TorchScript")
    for part, target in (("data", checkpoint), ("constants", constants)):
        storages = ZipStorages(archive, f"{prefix}{part}/", big_endian)
        result = run_entry(archive, f"{prefix}{part}.pkl", storages, budget)
        if target is constants:
            if type(result.value) is not tuple:
                raise CheckpointError("zip-layout", "the constants are not a tuple")
            named = {f"c{index}": value for index, value in enumerate(result.value)}
            result.value = {"CONSTANTS": named}
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
