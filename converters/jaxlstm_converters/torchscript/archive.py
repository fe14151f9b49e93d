"""`read_archive`: the code and the pickles of a TorchScript archive, without torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from ..checkpoint.errors import CheckpointError
from ..checkpoint.formats.torch_zip import is_torchscript, root_folder, run_torchscript
from ..checkpoint.io._make_tensor import Budget
from ..checkpoint.io.files import CheckpointFile
from ..checkpoint.io.zip_archive import Archive
from ..checkpoint.pickle.values import Placeholder
from .text import MAX_TEXT, ScriptClass, ScriptText


@dataclass(frozen=True, eq=False)
class ScriptArchive:
    """A TorchScript archive as data.

    Attributes:
        root: the module, an object of a class of the archive with its attributes.
        constants: the values of CONSTANTS.c0, CONSTANTS.c1, ...
        version: the version of the format, which decides what operators of integers mean.
    """

    path: str
    text: ScriptText
    root: Any
    constants: tuple[Any, ...]
    version: int

    def class_of(self, value: Any) -> ScriptClass | None:
        """Return the class of an object of the pickles; None for other values."""
        is_object = isinstance(value, Placeholder) and isinstance(value.state, dict)
        return self.text.classes.get(f"{value.cls.module}.{value.cls.name}") if is_object else None


def read_archive(source: CheckpointFile) -> ScriptArchive:
    """Read the archive in a file, or in a `MemoryFile`."""
    try:
        opened = _opened(source, check_crc=True)
        if opened is None:
            raise CheckpointError("unknown-format", "the file is not an archive of torch.jit.save")
        archive, prefix = opened
        root, constants = run_torchscript(archive, prefix, Budget(source.size))
        text, version = _read_text(archive, prefix), _read_version(archive, prefix)
        result = ScriptArchive(source.path, text, root.value, constants.value, version)
        source.check_unchanged()
    except CheckpointError as error:
        error.path = error.path or os.fspath(source.path)
        raise
    return result


def method_lines(path: str | os.PathLike[str]) -> list[str]:
    """Return the signatures of the public methods of a file's modules, except torch's, with module paths."""
    archive = read_archive(CheckpointFile(path))
    lines, seen, stack = list[str](), set[str](), [("", archive.root)]
    while stack:
        prefix, value = stack.pop()
        kind = archive.class_of(value)
        if kind is None or kind.name in seen or (prefix and kind.name.startswith("__torch__.torch.")):
            continue
        seen.add(kind.name)
        lines += [prefix + f.signature for name, f in kind.methods.items() if not name.startswith("_")]
        stack += reversed([(f"{prefix}{name}.", item) for name, item in value.state.items()])
    return lines


def is_script(path: str | os.PathLike[str]) -> bool:
    """Return True if a file is an archive of `torch.jit.save`."""
    try:
        return _opened(CheckpointFile(path), check_crc=False) is not None
    except CheckpointError:  # read_checkpoint raises the error that explains the fault.
        return False


def _opened(source: CheckpointFile, *, check_crc: bool) -> tuple[Archive, str] | None:
    """Return the archive of `torch.jit.save` in a file, and its folder; None for another file."""
    archive = Archive(source, check_crc=check_crc) if source.read(0, min(2, source.size)) == b"PK" else None
    prefix = root_folder(archive) if archive else ""
    return (archive, prefix) if archive and is_torchscript(archive, prefix) else None


def _read_version(archive: Archive, prefix: str) -> int:
    entry = archive.entries.get(f"{prefix}version") or archive.entries.get(f"{prefix}.data/version")
    text = archive.text(entry).strip() if entry and entry.size < 10 else ""
    if not text.isdecimal():
        raise CheckpointError("torchscript-text", f"the archive has the version {text!r}, not a number")
    return int(text)


def _read_text(archive: Archive, prefix: str) -> ScriptText:
    text = ScriptText()
    entries = [e for name, e in archive.entries.items() if name.startswith(f"{prefix}code/")]
    entries = [entry for entry in entries if entry.name.endswith(".py")]
    if sum(entry.size for entry in entries) > MAX_TEXT:
        raise CheckpointError("torchscript-text", f"the code has more than {MAX_TEXT} bytes")
    for entry in entries:
        text.add(entry.name.removeprefix(prefix), archive.text(entry))
    return text
