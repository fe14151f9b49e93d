"""Hostile zip archives: directory, headers and checksums."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from testing.checkpoints.assemble import (
    GOOD,
    WEIGHT,
    ScriptBox,
    ZipBox,
    ZipMember,
    archive,
    end_record,
    end_record64,
    mapping,
)
from testing.checkpoints.case import FileCase, table
from testing.hostile import program_files


def members(make: type[ZipBox]) -> list[ZipMember]:
    """Return the members of a valid file: data.pkl, byteorder, data/0, version and others."""
    box = make()
    return box.members(b"\x80\x02" + mapping(w=box.weight()) + b".")


def npz() -> list[ZipMember]:
    raw = io.BytesIO()
    np.save(raw, WEIGHT)
    return [ZipMember("w.npy", raw.getvalue()), ZipMember("v.npy", raw.getvalue())]


SOURCES: dict[str, Callable[[], list[ZipMember]]] = {
    "zip": lambda: members(ZipBox),
    "TorchScript": lambda: members(ScriptBox),
    "npz": npz,
    "pt2": program_files.members,
}


def cases() -> Iterator[FileCase]:
    for label, source in SOURCES.items():
        tensors = GOOD if label != "npz" else {"w": WEIGHT, "v": WEIGHT}
        made = source()
        yield FileCase(0, f"{label} as it should be", archive(made), tensors=tensors)
        yield from _names(label, made)
        yield from _places(label, made)
        yield from _headers(label, made)
        yield from _end_records(label, made, tensors)
        repeated = [replace(made[0], extra=_zip64(len(made[0].data), len(made[0].data))), *made[1:]]
        yield FileCase(
            0, f"{label} as zipfile wrote before Python 3.11.4", archive(repeated), tensors=tensors
        )
        yield FileCase(0, f"{label} as torch writes 4 GiB", archive(_wide(made)), tensors=tensors)


def _descriptor(crc: int, size: int, form: str = "III") -> bytes:
    """Return the data descriptor that follows a streamed entry."""
    return b"PK\7\x08" + struct.pack("<" + form, crc, size, size)


def _zip64(*values: int) -> bytes:
    """Return a ZIP64 extra field."""
    return struct.pack(f"<HH{len(values)}Q", 1, 8 * len(values), *values)


def _streamed(member: ZipMember, **changes: Any) -> ZipMember:
    """Return the member with its sizes in a data descriptor instead of its local header."""
    local = {"flags": member.flags | 8, "crc": 0, "size": 0, "compressed": 0}
    return replace(member, flags=member.flags | 8, local=local, **changes)


def _wide(made: list[ZipMember]) -> list[ZipMember]:
    """Return headers as for an entry of 4 GiB, around a small entry and the entry after it.

    torch leaves the local sizes at 0, adds a ZIP64 field, and then stores the offset of each entry beyond
    4 GiB.
    """
    size = len(made[0].data)
    first = _streamed(
        made[0],
        extra=_zip64(size, 0) + b"FB\x03\x00ZZZ",
        after=_descriptor(zlib.crc32(made[0].data), size, "IQQ"),
        size=0xFFFFFFFF,
        compressed=0xFFFFFFFF,
        central_extra=_zip64(size, size),
    )
    at = 30 + len(first.name) + len(first.extra) + size + len(first.after)
    second = _streamed(
        made[1],
        extra=_zip64(at),
        after=_descriptor(zlib.crc32(made[1].data), len(made[1].data), "IQQ"),
        offset=0xFFFFFFFF,
        central_extra=_zip64(at),
    )
    return [first, second, *made[2:]]


def _names(label: str, made: list[ZipMember]) -> Iterator[FileCase]:
    """FileCase 12, and entry names that are not plain relative paths."""
    twice = {
        "first again": [*made, made[0]],
        "first again, other bytes": [replace(made[0], data=b"\x80\x02}."), *made],
        "every one again": made * 2,
    }
    yield from _table(12, label, twice, "zip-duplicate-name")
    names = ("../x", "/x", "m//x", "m/./x", "m\\x", "m/x\0", "")
    named = {f"entry named {bad!r}": [*made, ZipMember(bad, b"x")] for bad in names}
    yield from _table(12, label, named, "zip-directory")


def _places(label: str, made: list[ZipMember]) -> Iterator[FileCase]:
    """FileCase 14: overlaps and gaps."""
    before = archive(made, before=b"hidden")
    yield FileCase(14, f"{label} bytes before", before, ("zip-overlap", "unknown-format"))
    before = archive(made, before=b"PK\3\4 hidden")
    yield FileCase(14, f"{label} a header before", before, ("zip-overlap",))
    first = 30 + len(made[0].name) + len(made[0].data)
    offsets = {"the same place": 0, "inside": first - 20, "beyond": 1 << 31}
    moved = {
        f"second entry at {what}": [made[0], replace(made[1], offset=offset), *made[2:]]
        for what, offset in offsets.items()
    }
    yield from _table(14, label, moved, "zip-overlap", "zip-header-mismatch", "truncated")
    size = len(made[0].data) + 40
    quoted = ZipMember("m/x" if label != "npz" else "x.npy", archive(made))
    inside = replace(made[0], offset=30 + len(quoted.name))
    overlaps = {
        "bytes between": [replace(made[0], after=b"hidden"), *made[1:]],
        "bytes after the last": [*made[:-1], replace(made[-1], after=b"hidden")],
        "first entry reaches into the second": [replace(made[0], size=size, compressed=size), *made[1:]],
        "entry within an entry": [quoted, inside, *made[1:]],
    }
    yield from _table(14, label, overlaps, "zip-overlap")


def _headers(label: str, made: list[ZipMember]) -> Iterator[FileCase]:
    """Cases 15, 16 and 18: compression, headers that disagree, encryption."""
    bomb = [*made[:-1], ZipMember(made[-1].name, bytes(30_000_000), method=8)]
    yield from _table(15, label, {"deflated 30 MB": bomb}, "zip-compressed", "zip-layout")

    def changed(changes: dict[str, dict[str, Any]]) -> dict[str, list[ZipMember]]:
        """Return archives with these changes of the first entry."""
        return {what: [replace(made[0], **fields), *made[1:]] for what, fields in changes.items()}

    methods: dict[str, dict[str, Any]] = {"first deflated": {"method": 8}}
    methods |= {f"method {n}": {"method": n} for n in (1, 9, 12, 14, 93, 99)}
    yield from _table(15, label, changed(methods), "zip-compressed")
    crc, size = zlib.crc32(made[0].data), len(made[0].data)
    far: dict[str, object] = {"size": 0xFFFFFFFF, "compressed": 0xFFFFFFFF}
    local: dict[str, dict[str, object]] = {
        "name": {"name": made[0].name[:-1] + "x"},
        "longer name": {"name": made[0].name + "x"},
        "size": {"size": size - 1},
        "compressed": {"compressed": size - 1},
        "crc": {"crc": crc ^ 1},
        "flags": {"flags": 0},
        "method": {"method": 8},
        "no sizes": {"size": 0, "compressed": 0, "crc": 0},
        "ZIP64 without values": far,
    }
    differ = changed({f"local {what}": {"local": fields} for what, fields in local.items()})
    yield from _table(16, label, differ, "zip-header-mismatch")
    wide = _zip64(size, size)
    lies: dict[str, dict[str, Any]] = {
        "a size": {"local": far, "extra": _zip64(size + 1, size)},
        "one value": {"local": far, "extra": _zip64(size)},
        "a size that the header has too": {"extra": _zip64(size + 1, size)},
        "only one size that the header has too": {"extra": _zip64(size)},
        "more than the sizes": {"extra": _zip64(size, size, 0)},
        "twice": {"local": far, "extra": wide * 2},
        "a field that is cut": {"extra": b"\x01\0\xff\xff"},
        "a central size": far | {"central_extra": _zip64(1 << 62, 1 << 62)},
        "a separate central size": {"central_extra": wide},
        "a central offset": {"offset": 0xFFFFFFFF, "central_extra": _zip64(1 << 63)},
    }
    codes = ("zip-header-mismatch", "zip-directory", "zip-overlap")
    files = changed({f"ZIP64 lies in {what}": fields for what, fields in lies.items()})
    yield from _table(16, label, files, *codes)
    right = _descriptor(crc, size)
    streamed: dict[str, dict[str, Any]] = {
        "descriptor missing": {},
        "descriptor of another crc": {"after": _descriptor(crc ^ 1, size)},
        "descriptor of another size": {"after": right[:-4] + struct.pack("<I", size + 1)},
        "descriptor too long": {"after": right + b"x"},
        "ZIP64 lies in a streamed header": {"after": right, "extra": _zip64(12345)},
    }
    files = {what: [_streamed(made[0], **f), *made[1:]] for what, f in streamed.items()}
    yield from _table(16, label, files, *codes)
    flags = {f"flag {flag:#x}": {"flags": made[0].flags | flag} for flag in (1, 0x41, 0x2000)}
    yield from _table(18, label, changed(flags), "zip-encrypted")


def _end_records(label: str, made: list[ZipMember], tensors: dict[str, np.ndarray]) -> Iterator[FileCase]:
    """FileCase 16 in the end records."""
    good = archive(made, end=end_record64)
    yield FileCase(0, f"{label} with a ZIP64 end record", good, tensors=tensors)
    ends = {
        "count + 1": lambda n, size, start: end_record(n + 1, size, start),
        "count - 1": lambda n, size, start: end_record(n - 1, size, start),
        "size": lambda n, size, start: end_record(n, size - 1, start),
        "offset": lambda n, size, start: end_record(n, size, start - 1),
        "a comment": lambda n, size, start: end_record(n, size, start, b"PK\5\6"),
        "bytes after": lambda *record: end_record(*record) + b"x",
        "two ends": lambda *record: end_record(*record) * 2,
        "no ZIP64": lambda n, size, start: end_record(n, size, 0xFFFFFFFF),
        "ZIP64 elsewhere": lambda *record: end_record64(*record, at=0),
        "ZIP64 of another count": lambda n, *rest: end_record64(n, *rest, lie=(n + 1, *rest)),
        "ZIP64 of another offset": lambda n, size, start: end_record64(n, size, start, lie=(n, size, 0)),
        "ZIP64 of 2^62 entries": lambda n, size, start: end_record64(1 << 62, size, start),
        "ZIP64 size 2^63": lambda n, size, start: end_record64(n, 1 << 63, start),
        "none": lambda *record: b"",
    }
    files = {what: archive(made, end=end) for what, end in ends.items()}
    codes = ("zip-directory", "zip-header-mismatch", "trailing-bytes", "truncated")
    yield from table(16, f"{label} end record:", files, *codes)


def _table(number: int, label: str, archives: dict[str, list[ZipMember]], *codes: str) -> Iterator[FileCase]:
    return table(number, label, {what: archive(made) for what, made in archives.items()}, *codes)
