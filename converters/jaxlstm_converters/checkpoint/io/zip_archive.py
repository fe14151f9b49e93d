"""A strict reader of zip archives: every byte belongs to one entry, and is stored as it is.

Readers of zip disagree about odd archives: with two entries of one name torch takes the first and
Python's zipfile the last, so that one file is two models. Here an archive has one reading or none:
unique names, local headers equal to the central directory, entries that tile the file with
neither overlap nor gap, no compression, no encryption, sizes that ZIP64 fields do not contradict.

Layout: (local header, name, extra, data, [data descriptor])*, central directory,
[ZIP64 end record, ZIP64 locator], end record. Field names follow PKWARE's APPNOTE.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import CheckpointError, shown
from .source import Source

LOCAL, CENTRAL, END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
END64, LOCATOR64, DESCRIPTOR = b"PK\x06\x06", b"PK\x06\x07", b"PK\x07\x08"
MAX_ENTRIES = 50_000
ENCRYPTED, HAS_DESCRIPTOR, UTF8 = 0x2041, 0x0008, 0x0800
UNSET16, UNSET32 = 0xFFFF, 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of the archive: its bytes are `size` bytes at `offset`, unless compressed.

    torch compresses the code of TorchScript archives. Nothing here inflates anything.
    """

    name: str
    offset: int
    size: int
    crc: int
    compressed: bool


@dataclass(frozen=True, slots=True)
class _Central:
    name: bytes
    flags: int
    method: int
    crc: int
    compressed: int
    size: int
    local_offset: int


def read_archive(source: Source) -> dict[str, Entry]:
    """The entries by name, in the order of their bytes.

    Raises:
        CheckpointError: one of the zip codes, `truncated` or `trailing-bytes`.
    """
    start, count, size = _find_directory(source)
    listed = _read_directory(source, start, count, size)
    listed.sort(key=lambda c: c.local_offset)
    entries: dict[str, Entry] = {}
    position = 0
    for index, central in enumerate(listed):
        if central.local_offset != position:
            raise _bad(
                "zip-overlap",
                f"{_text(central)!r} does not start where the one before ends",
                position,
            )
        end = listed[index + 1].local_offset if index + 1 < len(listed) else start
        entry = _read_local(source, central, end)
        if entry.name in entries:
            raise _bad(
                "zip-duplicate-name", f"two entries are named {shown(entry.name)!r}", position
            )
        entries[entry.name] = entry
        position = end
    if position != start:
        raise _bad("zip-overlap", "bytes before the directory belong to no entry", position)
    return entries


def read_entry(source: Source, entry: Entry, limit: int, check_crc: bool = True) -> bytes:
    """The bytes of a small entry, checksum compared."""
    if entry.size > limit:
        raise _bad("zip-layout", f"{shown(entry.name)!r} has {entry.size} bytes", entry.offset)
    if check_crc:
        verify_crc(source, entry)
    return source.read(entry.offset, entry.size)


def refuse_compressed(entries: Iterable[Entry]) -> None:
    """Raise `zip-compressed` for the first entry that is: inflating may give any size."""
    for entry in entries:
        if entry.compressed:
            raise _bad(
                "zip-compressed",
                f"{shown(entry.name)!r} is compressed; write it with torch.save or numpy.savez",
                entry.offset,
            )


def verify_crc(source: Source, entry: Entry) -> None:
    """Raise `crc-mismatch` unless the bytes have the checksum that the archive states."""
    crc = source.crc(entry.offset, entry.size)
    if crc != entry.crc:
        hint = ""
        if entry.crc == 0:
            hint = "; written under torch.serialization.set_crc32_options(False)?"
        raise _bad(
            "crc-mismatch",
            f"{shown(entry.name)!r} has checksum {crc:08x}, not {entry.crc:08x}{hint}",
            entry.offset,
        )


def _find_directory(source: Source) -> tuple[int, int, int]:
    """Offset, number of entries and size of the central directory."""
    if source.size < 22:
        raise _bad("truncated", "the archive has no end record", source.size)
    end = source.size - 22
    tail = source.read(end, 22)
    if not tail.startswith(END):
        if END in source.read(max(0, end - UNSET16), min(end, UNSET16)):
            raise _bad("trailing-bytes", "a comment or other bytes follow the end record", end)
        raise _bad("truncated", "the archive has no end record", source.size)
    disk, first_disk, here, count, size, start, comment = struct.unpack("<4xHHHHIIH", tail)
    if disk or first_disk or here != count or comment:
        raise _bad("zip-directory", "the end record tells of several disks or a comment", end)
    directory_end = end
    if end >= 76 and source.read(end - 20, 4) == LOCATOR64:
        directory_end = end - 76
        wide = _find_directory64(source, end - 20, directory_end)
        for narrow, unset, value in zip(
            (start, count, size), (UNSET32, UNSET16, UNSET32), wide, strict=True
        ):
            if narrow not in (unset, value):
                raise _bad("zip-header-mismatch", "the end records contradict each other", end)
        start, count, size = wide
    elif count == UNSET16 or UNSET32 in (size, start):
        raise _bad("zip-directory", "the ZIP64 end record is missing", end)
    if start + size != directory_end or count > MAX_ENTRIES or count * 46 > size:
        raise _bad("zip-directory", f"{count} entries in {size} bytes at {start} cannot be", end)
    return start, count, size


def _find_directory64(source: Source, locator: int, record: int) -> tuple[int, int, int]:
    disk, offset, disks = struct.unpack("<4xIQI", source.read(locator, 20))
    if disk or disks != 1 or offset != record:
        raise _bad("zip-directory", "the ZIP64 locator points elsewhere", locator)
    head = source.read(record, 56)
    rest, disk, first_disk, here, count, size, start = struct.unpack("<4xQ4xIIQQQQ", head)
    if not head.startswith(END64) or rest != 44 or disk or first_disk or here != count:
        raise _bad("zip-directory", "the ZIP64 end record is malformed", record)
    return start, count, size


def _read_directory(source: Source, start: int, count: int, size: int) -> list[_Central]:
    data = source.read(start, size)
    listed, position = [], 0
    for _ in range(count):
        at = start + position
        if data[position : position + 4] != CENTRAL or position + 46 > size:
            raise _bad("zip-directory", "a directory entry is malformed", at)
        flags, method, crc, compressed, plain, n_name, n_extra, n_comment, disk, offset = (
            struct.unpack_from("<8xHH4xIIIHHHH6xI", data, position)
        )
        position += 46 + n_name + n_extra + n_comment
        if position > size or disk or n_comment:
            raise _bad("zip-directory", "a directory entry is cut, on a disk, or commented", at)
        name_at = at - start + 46
        name = data[name_at : name_at + n_name]
        extra = data[name_at + n_name : name_at + n_name + n_extra]
        plain, compressed, offset = _widen(extra, (plain, compressed, offset), at)
        listed.append(_Central(name, flags, method, crc, compressed, plain, offset))
    if position != size:
        raise _bad("zip-directory", "the directory has more bytes than entries", start + position)
    return listed


def _read_local(source: Source, central: _Central, end: int) -> Entry:
    """The entry, once its local header says what the directory says."""
    at = central.local_offset
    name = _checked_name(central)
    if at + 30 + len(central.name) > end:
        raise _bad("zip-overlap", f"the header of {shown(name)!r} overlaps the next entry", at)
    head = source.read(at, 30 + len(central.name))
    signature, flags, method, crc, compressed, size, n_name, n_extra = struct.unpack_from(
        "<4s2xHH4xIIIHH", head
    )
    if signature != LOCAL or n_name != len(central.name) or head[30:] != central.name:
        raise _bad("zip-header-mismatch", f"{shown(name)!r} has another local header", at)
    data = at + len(head) + n_extra
    end_of_data = data + central.compressed
    if end_of_data > end:
        raise _bad("zip-overlap", f"{shown(name)!r} overlaps the next entry", at)
    extra = source.read(at + len(head), n_extra)
    wanted = (central.crc, central.compressed, central.size)
    if flags & HAS_DESCRIPTOR and (crc, compressed, size) == (0, 0, 0):
        # torch leaves the fields at 0 and still writes ZIP64 values: the size, the offset, or 0.
        wide = _wide_field(extra, at) or b""
        said = set(struct.unpack(f"<{len(wide) // 8}Q", wide[: len(wide) // 8 * 8]))
        agrees = len(wide) % 8 == 0 and said <= {0, central.size, at}
    else:
        size, compressed = _widen(extra, (size, compressed), at)
        agrees = (crc, compressed, size) == wanted
    if (flags, method) != (central.flags, central.method) or not agrees:
        raise _bad("zip-header-mismatch", f"{shown(name)!r} has another local header", at)
    if flags & HAS_DESCRIPTOR:
        _check_descriptor(source.read(end_of_data, min(end - end_of_data, 25)), wanted, end_of_data)
    elif end_of_data != end:
        raise _bad("zip-overlap", f"bytes after {shown(name)!r} belong to no entry", end_of_data)
    if central.method == 0 and central.compressed != central.size:
        raise _bad("zip-header-mismatch", f"{shown(name)!r} is stored with two sizes", at)
    return Entry(name, data, central.size, central.crc, central.method != 0)


def _check_descriptor(data: bytes, wanted: tuple[int, int, int], at: int) -> None:
    """With or without signature, with sizes of 32 or of 64 bits: all four are in use."""
    body = data[4:] if len(data) in (16, 24) and data.startswith(DESCRIPTOR) else data
    layout = {12: "<III", 20: "<IQQ"}.get(len(body))
    if layout is None or struct.unpack(layout, body) != wanted:
        raise _bad("zip-header-mismatch", "a data descriptor contradicts the directory", at)


def _widen(extra: bytes, fields: tuple[int, ...], at: int) -> tuple[int, ...]:
    """The fields, those that say 'see ZIP64' replaced by the wide values in order."""
    wide = _wide_field(extra, at)
    unset = sum(value == UNSET32 for value in fields)
    if wide is None and unset == 0:
        return fields
    if wide is None or len(wide) != 8 * unset:
        raise _bad("zip-header-mismatch", "ZIP64 sizes contradict the header", at)
    values = iter(struct.unpack(f"<{unset}Q", wide))
    return tuple(next(values) if value == UNSET32 else value for value in fields)


def _wide_field(extra: bytes, at: int) -> bytes | None:
    """The ZIP64 extra field (0x0001), if there is one. torch pads with a field of its own."""
    wide: bytes | None = None
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, position)
        body = extra[position + 4 : position + 4 + length]
        if len(body) != length or (kind == 1 and wide is not None):
            raise _bad("zip-directory", "an extra field is malformed", at)
        if kind == 1:
            wide = body
        position += 4 + length
    return wide


def _checked_name(central: _Central) -> str:
    at = central.local_offset
    if central.flags & ENCRYPTED:
        raise _bad("zip-encrypted", f"{_text(central)!r} is encrypted; decrypt the file first", at)
    try:
        name = central.name.decode("utf-8" if central.flags & UTF8 else "ascii")
    except UnicodeDecodeError:
        raise _bad("zip-directory", f"{_text(central)!r} is no text", at) from None
    parts = name.removesuffix("/").split("/")
    if "\\" in name or "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise _bad("zip-directory", f"{_text(central)!r} is no plain path", at)
    return name


def _text(central: _Central) -> str:
    return shown(central.name.decode("utf-8", "replace"))


def _bad(code: str, message: str, offset: int) -> CheckpointError:
    return CheckpointError(code, message, offset=offset)
