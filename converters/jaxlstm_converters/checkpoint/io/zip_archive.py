"""A strict reader of zip archives, which accepts an archive only if it has one interpretation.

Zip readers disagree about malformed archives. With two entries of the same name, torch reads the
first and Python's zipfile the last, so one file is two models. This reader requires unique names,
local headers equal to the central directory, entries that fill the file without overlap or gap,
no encryption, and ZIP64 fields that agree with the others. It decompresses nothing.

Layout: (local header, name, extra, data, [data descriptor])*, central directory,
[ZIP64 end record, ZIP64 locator], end record. Field names follow PKWARE's APPNOTE.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ..errors import CheckpointError, printable
from .files import CheckpointFile
from .stream import ByteReader
from .zip_directory import CentralHeader, read_directory, wide_field, widen

LOCAL, DESCRIPTOR = b"PK\x03\x04", b"PK\x07\x08"
ENCRYPTED, HAS_DESCRIPTOR, UTF8 = 0x2041, 0x0008, 0x0800


@dataclass(frozen=True, slots=True)
class ZipEntry:
    """One file of the archive: `size` bytes at `offset`, unless it is compressed.

    Compressed entries are accepted in TorchScript archives only, whose code is never used.
    """

    name: str
    offset: int
    size: int
    crc: int
    compressed: bool


class Archive:
    """A zip archive whose entries fill the file.

    Args:
        source: the file.
        check_crc: compare the checksums of the entries.

    Attributes:
        entries: the entries by name, in the order of their data.
        checks_crc: whether checksums are compared.

    Raises:
        CheckpointError: one of the zip codes, `truncated` or `trailing-bytes`.
    """

    def __init__(self, source: CheckpointFile, check_crc: bool) -> None:
        self.source = source
        self.entries: dict[str, ZipEntry] = {}
        self.checks_crc = check_crc
        headers, directory_start = read_directory(source)
        headers.sort(key=lambda header: header.local_offset)
        ends = [header.local_offset for header in headers[1:]] + [directory_start]
        position = 0
        for header, end in zip(headers, ends, strict=False):
            if header.local_offset != position:
                problem = f"starts at byte {header.local_offset}, the entry before it ends at {position}"
                raise header.error("zip-overlap", problem)
            entry = _read_entry(source, header, end)
            if entry.name in self.entries:
                raise header.error("zip-duplicate-name", "has the name of another entry")
            self.entries[entry.name] = entry
            position = end
        if position != directory_start:
            message = "bytes before the central directory belong to no entry"
            raise CheckpointError("zip-overlap", message, position)

    def crc(self, entry: ZipEntry) -> int | None:
        """Return the declared checksum of an entry; None if checksums are not compared."""
        return entry.crc if self.checks_crc else None

    def stream(self, entry: ZipEntry, code: str = "pickle-malformed") -> ByteReader:
        """Return the data of an entry."""
        return ByteReader(self.source, entry.offset, entry.offset + entry.size, code)

    def require_folder(self, folder: str) -> None:
        """Raise `zip-layout` for an entry outside of a folder such as "archive/"."""
        for name in self.entries:
            if not name.startswith(folder):
                message = f"entry {printable(name)!r} is outside the folder {printable(folder)!r}"
                raise CheckpointError("zip-layout", message)

    def refuse_compressed(self, except_folder: str | None = None) -> None:
        """Raise `zip-compressed` for a compressed entry: decompressed data may have any size."""
        for name, entry in self.entries.items():
            if entry.compressed and not (except_folder and name.startswith(except_folder)):
                raise CheckpointError(
                    "zip-compressed",
                    f"{printable(name)!r} is compressed; write the file with torch.save or "
                    "numpy.savez, which do not compress",
                    entry.offset,
                )

    def verify(self, entry: ZipEntry) -> None:
        """Raise `crc-mismatch` unless the data has the checksum that the archive declares."""
        crc = self.source.crc(entry.offset, entry.size) if self.checks_crc else entry.crc
        if crc != entry.crc:
            hint = (
                "; if it was written under torch.serialization.set_crc32_options(False), pass check_crc=False"
            )
            raise CheckpointError(
                "crc-mismatch",
                f"{printable(entry.name)!r} has checksum {crc:08x}, but the archive declares "
                f"{entry.crc:08x}{'' if entry.crc else hint}",
                entry.offset,
            )


def _read_entry(source: CheckpointFile, header: CentralHeader, end: int) -> ZipEntry:
    """Return the entry whose bytes end at `end`, after comparing its local and central headers."""
    name = _decode_name(header)
    at = header.local_offset
    extra_at = at + 30 + len(header.name)
    if extra_at > end:
        raise header.error("zip-overlap", "has a header that overlaps the next entry")
    head = source.read(at, extra_at - at)
    signature, flags, method, crc, compressed, size, n_name, n_extra = struct.unpack_from(
        "<4s2xHH4xIIIHH", head
    )
    mismatch = "has a local header that differs from the central directory"
    if signature != LOCAL or n_name != len(header.name) or head[30:] != header.name:
        raise header.error("zip-header-mismatch", mismatch)
    data = extra_at + n_extra
    data_end = data + header.compressed
    if data_end > end:
        raise header.error("zip-overlap", "has data that overlaps the next entry")
    extra = source.read(extra_at, n_extra)
    expected = (header.crc, header.compressed, header.size)
    if flags & HAS_DESCRIPTOR and (crc, compressed, size) == (0, 0, 0):
        # torch leaves the fields at 0 and still writes ZIP64 values: the size, the offset, or 0.
        wide = wide_field(extra, at) or b""
        values = set(struct.unpack(f"<{len(wide) // 8}Q", wide[: len(wide) // 8 * 8]))
        agrees = len(wide) % 8 == 0 and values <= {0, header.size, at}
    else:
        # zipfile before Python 3.11.4, and so numpy.savez, repeats the sizes in a needless ZIP64 field.
        if wide_field(extra, at) != struct.pack("<QQ", size, compressed):
            size, compressed = widen(extra, (size, compressed), at)
        agrees = (crc, compressed, size) == expected
    if (flags, method) != (header.flags, header.method) or not agrees:
        raise header.error("zip-header-mismatch", mismatch)
    if flags & HAS_DESCRIPTOR:
        _check_descriptor(source.read(data_end, min(end - data_end, 25)), expected, data_end)
    elif data_end != end:
        raise header.error("zip-overlap", "is followed by bytes that belong to no entry")
    if header.method == 0 and header.compressed != header.size:
        raise header.error("zip-header-mismatch", "is not compressed but declares two sizes")
    return ZipEntry(name, data, header.size, header.crc, header.method != 0)


def _check_descriptor(data: bytes, expected: tuple[int, int, int], at: int) -> None:
    """Compare a data descriptor, with or without signature, with sizes of 32 or 64 bits."""
    body = data[4:] if len(data) in (16, 24) and data.startswith(DESCRIPTOR) else data
    layout = {12: "<III", 20: "<IQQ"}.get(len(body))
    if layout is None or struct.unpack(layout, body) != expected:
        message = "a data descriptor differs from the central directory"
        raise CheckpointError("zip-header-mismatch", message, at)


def _decode_name(header: CentralHeader) -> str:
    if header.flags & ENCRYPTED:
        raise header.error("zip-encrypted", "is encrypted; decrypt the file first")
    try:
        name = header.name.decode("utf-8" if header.flags & UTF8 else "ascii")
    except UnicodeDecodeError:
        raise header.error("zip-directory", "has a name that is not text") from None
    parts = name.removesuffix("/").split("/")
    if "\\" in name or "\0" in name or not {"", ".", ".."}.isdisjoint(parts):
        raise header.error("zip-directory", "has a name that is not a relative path")
    return name
