"""The entries of a `.pt2` archive, the zip file that torch.export.save writes.

Since torch 2.8 all entries are in one folder, ROOT: `ROOT/archive_format` is "pt2", `ROOT/models/NAME.json`
is the graph, `ROOT/data/weights/` holds parameters and buffers, `ROOT/data/constants/` constants and
non-persistent buffers, and `ROOT/data/sample_inputs/` the example of the export. Before, the archive had no
folder. The user's extra files are never opened.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import CheckpointError, describe, printable
from ..io.json_objects import read_json
from ..io.zip_archive import Archive, ZipEntry

FORMAT_ENTRY = "archive_format"
FLAT_PROGRAM = "serialized_exported_program.json"
FLAT_TENSORS = {
    "weights": "serialized_state_dict.pt",
    "constants": "serialized_constants.pt",
    "sample_inputs": "serialized_example_inputs.pt",
}
MODEL = re.compile(r"models/([^/]+)\.json")
ONLY = "model"
"""The name that torch.export.save gives to the only program of an archive."""
# Major versions of the schema that this reader knows. A new minor version only adds optional fields.
# A model of 8,000 nodes has 8 MB. The values take 7 times as much, and 28 times in a hostile text.
_ALLOWED_TEXT = 16 << 20
SCHEMA_MAJORS = (8,)


@dataclass(frozen=True, slots=True)
class ProgramArchive:
    """A program of an archive.

    Attributes:
        archive: the zip file.
        root: the folder of all entries, such as "model/"; "" before torch 2.8.
        name: the name of the program.
        text: the entry with the JSON text of the program.
        document: the parsed text.
        first: the name of the program of which this is another branch; "" if it is none.
    """

    archive: Archive
    root: str
    name: str
    text: ZipEntry
    document: dict[str, Any]
    first: str = ""

    def entry(self, name: str) -> ZipEntry | None:
        """Return an entry below the root, or None."""
        return self.archive.entries.get(self.root + name)

    def pickled(self, kind: str) -> ZipEntry | None:
        """Return an entry that torch.save wrote: "sample_inputs", or "weights" and "constants" before 2.9."""
        return self.entry(f"data/{kind}/{self.name}.pt" if self.root else FLAT_TENSORS[kind])

    def json(self, name: str) -> dict[str, Any]:
        """Return the JSON object of an entry below the root."""
        entry = self.entry(name)
        if entry is None:
            raise CheckpointError("zip-layout", f"the archive has no entry {printable(name)}")
        return _json(self.archive, entry)


def is_pt2(archive: Archive) -> bool:
    """Return True for an archive of torch.export.save."""
    return FLAT_PROGRAM in archive.entries or any(
        name.count("/") == 1 and name.endswith(f"/{FORMAT_ENTRY}") for name in archive.entries
    )


def open_programs(archive: Archive) -> Iterator[ProgramArchive]:
    """Yield the programs of an archive, after checking the versions."""
    archive.refuse_compressed()
    if FLAT_PROGRAM in archive.entries:
        text = archive.entries[FLAT_PROGRAM]
        yield ProgramArchive(archive, "", ONLY, text, _document(archive, text))
        return
    root = _root(archive)
    _expect_text(archive, f"{root}{FORMAT_ENTRY}", b"pt2")
    _expect_text(archive, f"{root}archive_version", b"0")
    matches = [match for name in archive.entries if (match := MODEL.fullmatch(name.removeprefix(root)))]
    if not matches:
        raise CheckpointError("pt2-unsupported", "the archive holds no program of torch.export.save")
    names = {match[1] for match in matches}
    for match in matches:
        text = archive.entries[root + match[0]]
        first, branch, _ = match[1].partition("@")  # "model@1", as Program.save writes it
        first = first if branch and first in names else ""
        yield ProgramArchive(archive, root, match[1], text, _document(archive, text), first)


def _root(archive: Archive) -> str:
    """Return the folder that holds every entry, such as "model/"."""
    root = next(iter(archive.entries)).partition("/")[0] + "/"
    archive.require_folder(root)
    return root


def _expect_text(archive: Archive, name: str, expected: bytes) -> None:
    entry = archive.entries.get(name)
    text = b""
    if entry is not None and entry.size <= 16:
        text = archive.stream(entry).take(entry.size)
    if text.strip() != expected:
        message = f"{printable(name)!r} is {printable(repr(text))}, expected {expected!r}"
        raise CheckpointError("pt2-version", message, entry.offset if entry else None)


def _document(archive: Archive, entry: ZipEntry) -> dict[str, Any]:
    """Return the JSON text of a program, after checking its schema version."""
    document = _json(archive, entry)
    version = document.get("schema_version")
    major = version.get("major") if isinstance(version, dict) else None
    if type(major) is not int or major not in SCHEMA_MAJORS:
        expected = " or ".join(map(str, SCHEMA_MAJORS))
        message = f"the program has schema version {describe(major)}, expected {expected}"
        raise CheckpointError("pt2-version", f"{message}; export the model with a supported torch version")
    return document


def _json(archive: Archive, entry: ZipEntry) -> dict[str, Any]:
    archive.verify(entry)
    return read_json(
        archive.source, entry.offset, entry.size, "pt2-malformed", fractions=True, allowed=_ALLOWED_TEXT
    )
