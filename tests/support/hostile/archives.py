"""Hostile zip archives: directory, headers and checksums."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from tests.support.checkpoints.assemble import (
    WEIGHT,
    Member,
    ScriptBox,
    ZipBox,
    archive,
    end_record,
    end_record64,
    mapping,
)
from tests.support.checkpoints.case import Case

Edit = Callable[[list[Member]], object]
GOOD = {"w": WEIGHT}


def members(make: type[ZipBox]) -> list[Member]:
    """Return the members of a valid file: data.pkl, byteorder, data/0, version and others."""
    box = make()
    return box.members(b"\x80\x02" + mapping(w=box.weight()) + b".")


def npz() -> list[Member]:
    raw = io.BytesIO()
    np.save(raw, WEIGHT)
    return [Member("w.npy", raw.getvalue()), Member("v.npy", raw.getvalue())]


SOURCES: dict[str, Callable[[], list[Member]]] = {
    "zip": lambda: members(ZipBox),
    "TorchScript": lambda: members(ScriptBox),
    "npz": npz,
}


def cases() -> Iterator[Case]:
    for label, source in SOURCES.items():
        tensors = GOOD if label != "npz" else {"w": WEIGHT, "v": WEIGHT}
        yield Case(0, f"{label} as it should be", archive(source()), tensors=tensors)
        yield from _names(label, source)
        yield from _places(label, source)
        yield from _headers(label, source)
        yield from _end_records(label, source, tensors)
        yield Case(0, f"{label} as torch writes 4 GiB", archive(_wide(source())), tensors=tensors)


def _wide(made: list[Member]) -> list[Member]:
    """Return headers as for an entry of 4 GiB, around a small entry and the entry after it.

    torch leaves the local sizes at 0, adds a ZIP64 field, and then stores the offset of each entry beyond
    4 GiB.
    """
    crc, size = zlib.crc32(made[0].data), len(made[0].data)
    first = replace(
        made[0],
        flags=made[0].flags | 8,
        local={"crc": 0, "size": 0, "compressed": 0},
        extra=struct.pack("<HHQQ", 1, 16, size, 0) + b"FB\x03\x00ZZZ",
        after=b"PK\7\x08" + struct.pack("<IQQ", crc, size, size),
        size=0xFFFFFFFF,
        compressed=0xFFFFFFFF,
        central_extra=struct.pack("<HHQQ", 1, 16, size, size),
    )
    at = 30 + len(first.name) + len(first.extra) + size + len(first.after)
    crc, size = zlib.crc32(made[1].data), len(made[1].data)
    second = replace(
        made[1],
        flags=made[1].flags | 8,
        local={"crc": 0, "size": 0, "compressed": 0},
        extra=struct.pack("<HHQ", 1, 8, at),
        after=b"PK\7\x08" + struct.pack("<IQQ", crc, size, size),
        offset=0xFFFFFFFF,
        central_extra=struct.pack("<HHQ", 1, 8, at),
    )
    return [first, second, *made[2:]]


def _edited(source: Callable[[], list[Member]], edit: Edit) -> list[Member]:
    made = source()
    return list(edited) if isinstance(edited := edit(made), list) else made


def _names(label: str, source: Callable[[], list[Member]]) -> Iterator[Case]:
    """Case 12, and entry names that are not plain relative paths."""
    edits: dict[str, Edit] = {
        "first again": lambda m: [*m, m[0]],
        "first again, other bytes": lambda m: [replace(m[0], data=b"\x80\x02}."), *m],
        "every one again": lambda m: m + m,
    }
    for what, edit in edits.items():
        yield Case(12, f"{label} {what}", archive(_edited(source, edit)), ("zip-duplicate-name",))
    for bad in ("../x", "/x", "m//x", "m/./x", "m\\x", "m/x\0", ""):
        file = archive([*source(), Member(bad, b"x")])
        yield Case(12, f"{label} entry named {bad!r}", file, ("zip-directory",))


def _places(label: str, source: Callable[[], list[Member]]) -> Iterator[Case]:
    """Case 14: overlaps and gaps."""
    made = source()
    yield Case(
        14,
        f"{label} bytes before",
        archive(made, before=b"hidden"),
        ("zip-overlap", "unknown-format"),
    )
    before = archive(made, before=b"PK\3\4 hidden")
    yield Case(14, f"{label} a header before", before, ("zip-overlap",))
    gap = [replace(made[0], after=b"hidden"), *made[1:]]
    yield Case(14, f"{label} bytes between", archive(gap), ("zip-overlap",))
    last = [*made[:-1], replace(made[-1], after=b"hidden")]
    yield Case(14, f"{label} bytes after the last", archive(last), ("zip-overlap",))
    first = 30 + len(made[0].name) + len(made[0].data)
    for what, offset in {"the same place": 0, "inside": first - 20, "beyond": 1 << 31}.items():
        moved = [made[0], replace(made[1], offset=offset), *made[2:]]
        codes = ("zip-overlap", "zip-header-mismatch", "truncated")
        yield Case(14, f"{label} second entry at {what}", archive(moved), codes)
    longer = [
        replace(made[0], size=len(made[0].data) + 40, compressed=len(made[0].data) + 40),
        *made[1:],
    ]
    yield Case(
        14, f"{label} first entry reaches into the second", archive(longer), ("zip-overlap",)
    )
    inner = archive(made)
    quoted = [Member("m/x" if label != "npz" else "x.npy", inner), *made]
    at = 30 + len(quoted[0].name)
    nested = [quoted[0], *(replace(m, offset=at) for m in made[:1]), *made[1:]]
    yield Case(14, f"{label} entry within an entry", archive(nested), ("zip-overlap",))


def _headers(label: str, source: Callable[[], list[Member]]) -> Iterator[Case]:
    """Cases 15, 16 and 18: compression, headers that disagree, encryption."""
    made = source()
    bomb = Member(made[-1].name, bytes(30_000_000), method=8)
    yield Case(
        15, f"{label} deflated 30 MB", archive([*made[:-1], bomb]), ("zip-compressed", "zip-layout")
    )
    yield Case(
        15,
        f"{label} first deflated",
        archive([replace(made[0], method=8), *made[1:]]),
        ("zip-compressed",),
    )
    for method in (1, 9, 12, 14, 93, 99):
        file = archive([replace(made[0], method=method), *made[1:]])
        yield Case(15, f"{label} method {method}", file, ("zip-compressed",))

    crc, size = zlib.crc32(made[0].data), len(made[0].data)
    wide = struct.pack("<HHQQ", 1, 16, size, size)
    local: dict[str, dict[str, object]] = {
        "name": {"name": made[0].name[:-1] + "x"},
        "longer name": {"name": made[0].name + "x"},
        "size": {"size": size - 1},
        "compressed": {"compressed": size - 1},
        "crc": {"crc": crc ^ 1},
        "flags": {"flags": 0},
        "method": {"method": 8},
        "no sizes": {"size": 0, "compressed": 0, "crc": 0},
        "ZIP64 without values": {"size": 0xFFFFFFFF, "compressed": 0xFFFFFFFF},
    }
    for what, differs in local.items():
        file = archive([replace(made[0], local=differs), *made[1:]])
        yield Case(16, f"{label} local {what}", file, ("zip-header-mismatch",))
    far = {"size": 0xFFFFFFFF, "compressed": 0xFFFFFFFF}
    lies = {
        "a size": replace(made[0], local=far, extra=struct.pack("<HHQQ", 1, 16, size + 1, size)),
        "one value": replace(made[0], local=far, extra=wide[:2] + b"\x08\0" + wide[4:12]),
        "values that nobody asked for": replace(made[0], extra=wide),
        "twice": replace(made[0], local=far, extra=wide * 2),
        "a field that is cut": replace(made[0], extra=b"\x01\0\xff\xff"),
        "a central size": replace(
            made[0],
            size=0xFFFFFFFF,
            compressed=0xFFFFFFFF,
            central_extra=struct.pack("<HHQQ", 1, 16, 1 << 62, 1 << 62),
        ),
        "a central size of its own": replace(made[0], central_extra=wide),
        "a central offset": replace(
            made[0], offset=0xFFFFFFFF, central_extra=struct.pack("<HHQ", 1, 8, 1 << 63)
        ),
    }
    codes = ("zip-header-mismatch", "zip-directory", "zip-overlap")
    for what, first in lies.items():
        yield Case(16, f"{label} ZIP64 lies in {what}", archive([first, *made[1:]]), codes)
    streamed = {"flags": made[0].flags | 8, "crc": 0, "size": 0, "compressed": 0}
    descriptors = {
        "missing": b"",
        "of another crc": b"PK\7\x08" + struct.pack("<III", crc ^ 1, size, size),
        "of another size": b"PK\7\x08" + struct.pack("<III", crc, size, size + 1),
        "too long": b"PK\7\x08" + struct.pack("<III", crc, size, size) + b"x",
    }
    for what, after in descriptors.items():
        first = replace(made[0], flags=made[0].flags | 8, local=streamed, after=after)
        yield Case(16, f"{label} descriptor {what}", archive([first, *made[1:]]), codes)
    lie = replace(
        made[0],
        flags=made[0].flags | 8,
        local=streamed,
        extra=struct.pack("<HHQ", 1, 8, 12345),
        after=b"PK\7\x08" + struct.pack("<III", crc, size, size),
    )
    yield Case(16, f"{label} ZIP64 lies in a streamed header", archive([lie, *made[1:]]), codes)
    for flag in (1, 0x41, 0x2000):
        hidden = [replace(made[0], flags=made[0].flags | flag), *made[1:]]
        yield Case(18, f"{label} flag {flag:#x}", archive(hidden), ("zip-encrypted",))


def _end_records(
    label: str, source: Callable[[], list[Member]], tensors: dict[str, np.ndarray]
) -> Iterator[Case]:
    """Case 16 in the end records."""
    made = source()
    good = archive(made, end=end_record64)
    yield Case(0, f"{label} with a ZIP64 end record", good, tensors=tensors)
    ends = {
        "count + 1": lambda n, size, start: end_record(n + 1, size, start),
        "count - 1": lambda n, size, start: end_record(n - 1, size, start),
        "size": lambda n, size, start: end_record(n, size - 1, start),
        "offset": lambda n, size, start: end_record(n, size, start - 1),
        "a comment": lambda n, size, start: end_record(n, size, start, b"PK\5\6"),
        "bytes after": lambda n, size, start: end_record(n, size, start) + b"x",
        "two ends": lambda n, size, start: end_record(n, size, start) * 2,
        "no ZIP64": lambda n, size, start: end_record(n, size, 0xFFFFFFFF),
        "ZIP64 elsewhere": lambda n, size, start: end_record64(n, size, start, at=0),
        "ZIP64 of another count": lambda n, size, start: end_record64(
            n, size, start, lie=(n + 1, size, start)
        ),
        "ZIP64 of another offset": lambda n, size, start: end_record64(
            n, size, start, lie=(n, size, 0)
        ),
        "ZIP64 of 2^62 entries": lambda n, size, start: end_record64(1 << 62, size, start),
        "ZIP64 size 2^63": lambda n, size, start: end_record64(n, 1 << 63, start),
        "none": lambda n, size, start: b"",
    }
    codes = ("zip-directory", "zip-header-mismatch", "trailing-bytes", "truncated")
    for what, end in ends.items():
        yield Case(16, f"{label} end record: {what}", archive(made, end=end), codes)
