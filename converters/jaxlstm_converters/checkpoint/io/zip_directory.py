"""The central directory of a zip archive: end records, ZIP64 fields and central headers."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ..errors import CheckpointError, printable
from .files import CheckpointFile

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
        shown = printable(self.name.decode("utf-8", "replace"))
        return CheckpointError(code, f"entry {shown!r} {problem}", self.local_offset)


def read_directory(source: CheckpointFile) -> tuple[list[CentralHeader], int]:
    """Return the entries of the central directory, in its order, and the offset where it starts."""
    start, count, size = _find_directory(source)
    data = source.read(start, size)
    headers, position = [], 0
    for _ in range(count):
        at = start + position
        if data[position : position + 4] != CENTRAL or position + 46 > size:
            raise _directory_error("a central header is malformed", at)
        flags, method, crc, compressed, plain, n_name, n_extra, n_comment, disk, offset = struct.unpack_from(
            "<8xHH4xIIIHHHH6xI", data, position
        )
        name_at = position + 46
        position = name_at + n_name + n_extra + n_comment
        if position > size or disk or n_comment:
            raise _directory_error("a central header is cut off, has a comment or names a disk", at)
        name = data[name_at : name_at + n_name]
        extra = data[name_at + n_name : name_at + n_name + n_extra]
        plain, compressed, offset = widen(extra, (plain, compressed, offset), at)
        headers.append(CentralHeader(name, flags, method, crc, compressed, plain, offset))
    if position != size:
        raise _directory_error("the central directory is larger than its entries", start + position)
    return headers, start


def widen(extra: bytes, fields: tuple[int, ...], at: int) -> tuple[int, ...]:
    """Replace the fields that refer to ZIP64 values by those values, in order."""
    wide = wide_field(extra, at)
    unset = sum(value == UNSET32 for value in fields)
    if wide is None and unset == 0:
        return fields
    if wide is None or len(wide) != 8 * unset:
        message = "the ZIP64 field does not match the header"
        raise CheckpointError("zip-header-mismatch", message, at)
    values = iter(struct.unpack(f"<{unset}Q", wide))
    return tuple(next(values) if value == UNSET32 else value for value in fields)


def wide_field(extra: bytes, at: int) -> bytes | None:
    """Return the ZIP64 extra field (0x0001) or None. torch adds a padding field of another kind."""
    wide: bytes | None = None
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, position)
        body = extra[position + 4 : position + 4 + length]
        if len(body) != length or (kind == 1 and wide is not None):
            raise _directory_error("an extra field is malformed", at)
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
    disk, first_disk, here, count, size, start, comment = struct.unpack("<4xHHHHIIH", tail)
    if disk or first_disk or here != count or comment:
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
        raise CheckpointError(
            "zip-directory",
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
    rest, disk, first_disk, here, count, size, start = struct.unpack("<4xQ4xIIQQQQ", head)
    if not head.startswith(END64) or rest != 44 or disk or first_disk or here != count:
        raise _directory_error("the ZIP64 end record is malformed", record)
    return start, count, size
