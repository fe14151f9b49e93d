"""Zip archives byte by byte."""

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Member:
    """One entry of an archive. Fields that are None are computed from the data."""

    name: str
    data: bytes
    method: int = 0
    flags: int = 0x800
    crc: int | None = None
    size: int | None = None
    compressed: int | None = None
    extra: bytes = b""
    after: bytes = b""
    # Fields in which the local header differs from the directory.
    local: dict[str, Any] = field(default_factory=dict)
    # The offset in the directory.
    offset: int | None = None
    central_extra: bytes = b""

    @property
    def checksum(self) -> int:
        """The right checksum."""
        return zlib.crc32(self.data)


EndRecord = Callable[[int, int, int], bytes]


def end_record(count: int, size: int, start: int, comment: bytes = b"") -> bytes:
    head = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, count, count, size, start, len(comment))
    return head + comment


def archive(members: list[Member], *, before: bytes = b"", end: EndRecord = end_record) -> bytes:
    """Return an archive; `end` writes the end record from (count, size, offset) of the directory."""
    body, directory = bytearray(before), bytearray()
    for member in members:
        at = len(body)
        raw = zlib.compress(member.data, 9)[2:-4] if member.method == 8 else member.data
        numbers = {
            "flags": member.flags,
            "method": member.method,
            "crc": member.checksum if member.crc is None else member.crc,
            "compressed": len(raw) if member.compressed is None else member.compressed,
            "size": len(member.data) if member.size is None else member.size,
        }
        title = member.local.get("name", member.name).encode()
        local = [member.local.get(key, value) for key, value in numbers.items()]
        body += struct.pack("<4s2xHH4xIIIHH", b"PK\3\4", *local, len(title), len(member.extra))
        body += title + member.extra + raw + member.after
        title = member.name.encode()
        lengths = (len(title), len(member.central_extra), 0, 0, 0, 0)
        where = at if member.offset is None else member.offset
        directory += struct.pack("<4s4xHH4xIIIHHHHHII", b"PK\1\2", *numbers.values(), *lengths, where)
        directory += title + member.central_extra
    return bytes(body + directory + end(len(members), len(directory), len(body)))


def end_record64(
    count: int, size: int, start: int, *, at: int | None = None, lie: tuple[int, int, int] | None = None
) -> bytes:
    """Return ZIP64 end record and locator, then an end record that says `lie` or refers to ZIP64."""
    record = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 0, 45, 0, 0, count, count, size, start)
    where = start + size if at is None else at
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, where, 1)
    return record + locator + end_record(*(lie or (0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)))


def descriptor(member: Member, form: str = "III", crc: int = 0, more: int = 0) -> bytes:
    """Return the data descriptor that follows a streamed entry, with a checksum and a size that are wrong."""
    size = len(member.data)
    return b"PK\7\x08" + struct.pack("<" + form, member.checksum ^ crc, size, size + more)


def zip64(*values: int) -> bytes:
    """Return a ZIP64 extra field."""
    return struct.pack(f"<HH{len(values)}Q", 1, 8 * len(values), *values)
