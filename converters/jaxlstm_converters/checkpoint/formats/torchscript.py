"""TorchScript archives (torch.jit.save): the tensors of `data.pkl` and `constants.pkl`.

An object of a compiled class is its attributes: parameters, buffers and submodules by name. The
folder `code/` is the program: it is neither parsed nor inflated, so what it says does not matter.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..checkpoint import Checkpoint
from ..errors import CheckpointError
from ..io.source import Source
from ..io.storage import Budget
from ..io.zip_archive import Entry, refuse_compressed
from ..pickle._name_tensors import Member, Named, name_tensors
from ..pickle.values import Foreign
from .torch_zip import ZipStorages, is_big_endian, run_entry


def is_torchscript(entries: dict[str, Entry], prefix: str) -> bool:
    """torch.load looks for the same file."""
    return f"{prefix}constants.pkl" in entries


def read_torchscript(
    source: Source, entries: dict[str, Entry], prefix: str, budget: Budget, *, check_crc: bool
) -> Checkpoint:
    """Tensors under the names of state_dict(); constants of the program as "CONSTANTS.c0" etc."""
    code = f"{prefix}code/"
    refuse_compressed(entry for name, entry in entries.items() if not name.startswith(code))
    swapped = is_big_endian(source, entries, prefix, check_crc)

    def read(part: str) -> Named:
        storages = ZipStorages(
            source, entries, f"{prefix}{part}/", swapped=swapped, check_crc=check_crc
        )
        entry = entries[f"{prefix}{part}.pkl"]
        result = run_entry(source, entry, storages, budget, check_crc)
        root = result.value
        if part == "constants":
            if type(root) is not tuple:
                raise CheckpointError(
                    "zip-layout", "the constants are no tuple", offset=entry.offset
                )
            root = {"CONSTANTS": {f"c{index}": value for index, value in enumerate(root)}}
        return name_tensors(
            root,
            budget=budget,
            opcodes=result.opcodes,
            members=attributes,
            built=result.tensors,
        )

    named = read("data")
    constants = read("constants")
    if named.tensors.keys() & constants.tensors.keys():
        raise CheckpointError("duplicate-name", "an attribute is named like a constant")
    named.tensors |= constants.tensors
    named.warnings += constants.warnings
    return Checkpoint(source.path, "TorchScript", named)


def attributes(value: Foreign) -> Iterator[Member] | None:
    """The attributes of an object of a compiled class; None for anything else."""
    if not value.cls.module.startswith("__torch__") or not isinstance(value.state, dict):
        return None
    return ((n if type(n) is str else None, member) for n, member in value.state.items())
