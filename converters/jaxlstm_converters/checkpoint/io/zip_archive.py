"""A strict reader of zip archives, which accepts an archive only if it has one interpretation.

Zip readers disagree about malformed archives. With two entries of the same name, torch reads the
first and Python's zipfile the last, so one file is two models. This reader requires unique names,
local headers equal to the central directory, entries that fill the file without overlap or gap,
no encryption, and ZIP64 fields that agree with the others. It decompresses only texts of limited size.

Layout: (local header, name, extra, data, [data descriptor])*, central directory,
[ZIP64 end record, ZIP64 locator], end record. Field names follow PKWARE's APPNOTE.
"""

import struct
import zlib
from dataclasses import dataclass

from ..errors import CheckpointError, printable
from .files import CheckpointFile
from .storage import ByteReader, Storage

LOCAL, DESCRIPTOR = b"PK\x03\x04", b"PK\x07\x08"
ENCRYPTED, HAS_DESCRIPTOR, UTF8 = 0x2041, 0x0008, 0x0800
CENTRAL, END = b"PK\x01\x02", b"PK\x05\x06"
END64, LOCATOR64 = b"PK\x06\x06", b"PK\x06\x07"
MAX_ENTRIES = 50_000
# A field with one of these values refers to the ZIP64 field.
UNSET16, UNSET32 = 0xFFFF, 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class CentralHeader:
    """One entry of the central directory."""

    name: bytes
    flags: int
    method: int
    crc: int
    compressed: int
    size: int
    local_offset: int

    def error(self, code: str, problem: str) -> CheckpointError:
        """Return the error for this entry, such as "is encrypted"."""
        name = printable(self.name.decode("utf-8", "replace"))
        return CheckpointError(code, f"entry {name!r} {problem}", self.local_offset)


def read_directory(source: CheckpointFile) -> tuple[list[CentralHeader], int]:
    """Return the entries of the central directory, in its order, and the offset where it starts."""
    start, count, size = _find_directory(source)
    data = source.read(start, size)
    headers, position = [], 0
    for _ in range(count):
        file_offset = start + position
        if data[position : position + 4] != CENTRAL or position + 46 > size:
            raise _directory_error("a central header is malformed", file_offset)
        flags, method, crc, compressed, plain, n_name, n_extra, n_comment, disk, offset = struct.unpack_from(
            "<8xHH4xIIIHHHH6xI", data, position
        )
        name_start = position + 46
        position = name_start + n_name + n_extra + n_comment
        if position > size or disk or n_comment:
            raise _directory_error("a central header is cut off, has a comment or names a disk", file_offset)
        name = data[name_start : name_start + n_name]
        extra = data[name_start + n_name : name_start + n_name + n_extra]
        plain, compressed, offset = widen(extra, (plain, compressed, offset), file_offset)
        headers.append(CentralHeader(name, flags, method, crc, compressed, plain, offset))
    if position != size:
        raise _directory_error("the central directory is larger than its entries", start + position)
    return headers, start


def widen(extra: bytes, fields: tuple[int, ...], file_offset: int) -> tuple[int, ...]:
    """Replace the fields that refer to ZIP64 values by those values, in order."""
    wide = wide_field(extra, file_offset)
    unset = sum(value == UNSET32 for value in fields)
    if wide is None and unset == 0:
        return fields
    if wide is None or len(wide) != 8 * unset:
        raise CheckpointError("zip-header-mismatch", "the ZIP64 field does not match the header", file_offset)
    values = iter(struct.unpack(f"<{unset}Q", wide))
    return tuple(next(values) if value == UNSET32 else value for value in fields)


def wide_field(extra: bytes, file_offset: int) -> bytes | None:
    """Return the ZIP64 extra field (0x0001) or None. torch adds a padding field of another kind."""
    wide: bytes | None = None
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, position)
        body = extra[position + 4 : position + 4 + length]
        if len(body) != length or (kind == 1 and wide is not None):
            raise _directory_error("an extra field is malformed", file_offset)
        if kind == 1:
            wide = body
        position += 4 + length
    return wide


def _directory_error(message: str, offset: int) -> CheckpointError:
    return CheckpointError("zip-directory", message, offset)


def _find_directory(source: CheckpointFile) -> tuple[int, int, int]:
    """Return the offset, number of entries and size of the central directory."""
    missing = "the archive has no end record: the file is cut off"
    if source.size < 22:
        raise CheckpointError("truncated", missing, source.size)
    end = source.size - 22
    tail = source.read(end, 22)
    if not tail.startswith(END):
        if END in source.read(max(0, end - UNSET16), min(end, UNSET16)):
            message = "a comment or other bytes follow the end record"
            raise CheckpointError("trailing-bytes", message, end)
        raise CheckpointError("truncated", missing, source.size)
    disk, first_disk, disk_count, count, size, start, comment = struct.unpack("<4xHHHHIIH", tail)
    if disk or first_disk or disk_count != count or comment:
        raise _directory_error("the end record has several disks or a comment", end)
    directory_end = end
    if end >= 76 and source.read(end - 20, 4) == LOCATOR64:
        directory_end = end - 76
        wide = _read_end64(source, end - 20, directory_end)
        for narrow, unset, value in zip((start, count, size), (UNSET32, UNSET16, UNSET32), wide, strict=True):
            if narrow not in (unset, value):
                raise CheckpointError("zip-header-mismatch", "the two end records disagree", end)
        start, count, size = wide
    elif count == UNSET16 or UNSET32 in (size, start):
        raise _directory_error("the ZIP64 end record is missing", end)
    if start + size != directory_end or count > MAX_ENTRIES or count * 46 > size:
        raise _directory_error(
            f"the end record declares {count} entries in {size} bytes at {start}; expected at most "
            f"{MAX_ENTRIES} entries, up to byte {directory_end}",
            end,
        )
    return start, count, size


def _read_end64(source: CheckpointFile, locator: int, record: int) -> tuple[int, int, int]:
    """Return the offset, number of entries and size of the directory in the ZIP64 end record."""
    disk, offset, disks = struct.unpack("<4xIQI", source.read(locator, 20))
    if disk or disks != 1 or offset != record:
        raise _directory_error("the ZIP64 locator does not point to the record before it", locator)
    head = source.read(record, 56)
    record_size, disk, first_disk, disk_count, count, size, start = struct.unpack("<4xQ4xIIQQQQ", head)
    if not head.startswith(END64) or record_size != 44 or disk or first_disk or disk_count != count:
        raise _directory_error("the ZIP64 end record is malformed", record)
    return start, count, size


@dataclass(frozen=True, slots=True)
class ZipEntry:
    """One file of the archive: `size` bytes at `offset`, unless it is compressed to `stored` bytes.

    Compressed entries are accepted in TorchScript archives only, for code.
    """

    name: str
    offset: int
    size: int
    crc: int
    compressed: bool
    stored: int


class Archive:
    """A zip archive whose entries fill the file.

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

    def storage(self, name: str, big_endian: bool) -> Storage:
        """Return the data of an entry, which is verified when it is read, or raise `missing-storage`."""
        entry = self.entries.get(name)
        if entry is None:
            raise CheckpointError("missing-storage", f"the archive has no entry {printable(name)}")
        crc = entry.crc if self.checks_crc else None
        return Storage(self.source, entry.offset, entry.size, big_endian, crc)

    def stream(self, entry: ZipEntry) -> ByteReader:
        """Return the data of an entry, which has been verified."""
        self.verify(entry)
        return ByteReader(self.source, entry.offset, entry.offset + entry.size)

    def text(self, entry: ZipEntry) -> str:
        """Return the text of an entry, which may be deflated. The caller limits `entry.size`."""
        raw = self.source.read(entry.offset, min(entry.stored, 2 * entry.size + 64))
        if entry.compressed:
            try:
                raw = zlib.decompressobj(-zlib.MAX_WBITS).decompress(raw, entry.size + 1)
            except zlib.error:
                raw = b""
        if len(raw) != entry.size or (self.checks_crc and zlib.crc32(raw) != entry.crc):
            message = f"{printable(entry.name)!r} does not have the size and checksum of its header"
            raise CheckpointError("crc-mismatch", message, entry.offset)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            message = f"{printable(entry.name)!r} is not UTF-8"
            raise CheckpointError("torchscript-text", message, entry.offset) from None

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
                    f"{printable(name)!r} is compressed; torch.save writes files that are not",
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
    start = header.local_offset
    extra_start = start + 30 + len(header.name)
    if extra_start > end:
        raise header.error("zip-overlap", "has a header that overlaps the next entry")
    head = source.read(start, extra_start - start)
    signature, flags, method, crc, compressed, size, n_name, n_extra = struct.unpack_from(
        "<4s2xHH4xIIIHH", head
    )
    mismatch = "has a local header that differs from the central directory"
    if signature != LOCAL or n_name != len(header.name) or head[30:] != header.name:
        raise header.error("zip-header-mismatch", mismatch)
    data = extra_start + n_extra
    data_end = data + header.compressed
    if data_end > end:
        raise header.error("zip-overlap", "has data that overlaps the next entry")
    extra = source.read(extra_start, n_extra)
    expected = (header.crc, header.compressed, header.size)
    if flags & HAS_DESCRIPTOR and (crc, compressed, size) == (0, 0, 0):
        # torch leaves the fields at 0 and still writes ZIP64 values: the size, the offset, or 0.
        wide = wide_field(extra, start) or b""
        values = set(struct.unpack(f"<{len(wide) // 8}Q", wide[: len(wide) // 8 * 8]))
        agrees = len(wide) % 8 == 0 and values <= {0, header.size, start}
    else:
        # zipfile before Python 3.11.4, repeats the sizes in a needless ZIP64 field.
        if wide_field(extra, start) != struct.pack("<QQ", size, compressed):
            size, compressed = widen(extra, (size, compressed), start)
        agrees = (crc, compressed, size) == expected
    if (flags, method) != (header.flags, header.method) or not agrees:
        raise header.error("zip-header-mismatch", mismatch)
    if flags & HAS_DESCRIPTOR:
        _check_descriptor(source.read(data_end, min(end - data_end, 25)), expected, data_end)
    elif data_end != end:
        raise header.error("zip-overlap", "is followed by bytes that belong to no entry")
    if header.method == 0 and header.compressed != header.size:
        raise header.error("zip-header-mismatch", "is not compressed but declares two sizes")
    return ZipEntry(name, data, header.size, header.crc, header.method != 0, header.compressed)


def _check_descriptor(data: bytes, expected: tuple[int, int, int], file_offset: int) -> None:
    """Compare a data descriptor, with or without signature, with sizes of 32 or 64 bits."""
    body = data[4:] if len(data) in (16, 24) and data.startswith(DESCRIPTOR) else data
    layout = {12: "<III", 20: "<IQQ"}.get(len(body))
    if layout is None or struct.unpack(layout, body) != expected:
        message = "a data descriptor differs from the central directory"
        raise CheckpointError("zip-header-mismatch", message, file_offset)


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
