"""Hostile zip archives: directory, headers, checksums, roots, byte order and code."""

import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
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
    name,
)
from testing.checkpoints.case import FileCase, table
from testing.hostile import program_files

ZipMembers = list[ZipMember]
Changes = Mapping[str, dict[str, Any]]


def members(make: type[ZipBox]) -> ZipMembers:
    """Return the members of a valid file: data.pkl, byteorder, data/0, version and others."""
    box = make()
    return box.members(b"\x80\x02" + mapping(w=box.weight()) + b".")


SOURCES: dict[str, Callable[[], ZipMembers]] = {
    "zip": lambda: members(ZipBox),
    "TorchScript": lambda: members(ScriptBox),
    "pt2": program_files.members,
}


_FAR = {"size": 0xFFFFFFFF, "compressed": 0xFFFFFFFF}
# Wrong end records, written from the number of entries, the size and the offset of the directory.
END_RECORDS: dict[str, Callable[[int, int, int], bytes]] = {
    "count + 1": lambda n, size, start: end_record(n + 1, size, start),
    "count - 1": lambda n, size, start: end_record(n - 1, size, start),
    "offset": lambda n, size, start: end_record(n, size, start - 1),
    "a comment": lambda n, size, start: end_record(n, size, start, b"PK\5\6"),
    "of two disks": lambda *record: end_record(*record).replace(b"PK\5\6\0", b"PK\5\6\1"),
    "bytes after": lambda *record: end_record(*record) + b"x",
    "no ZIP64": lambda n, size, start: end_record(n, size, 0xFFFFFFFF),
    "ZIP64 elsewhere": lambda *record: end_record64(*record, at=0),
    "ZIP64 of another offset": lambda n, size, start: end_record64(n, size, start, lie=(n, size, 0)),
    "ZIP64 of 2^62 entries": lambda n, size, start: end_record64(1 << 62, size, start),
    "ZIP64 size 2^63": lambda n, size, start: end_record64(n, 1 << 63, start),
    "none": lambda *record: b"",
}


def cases() -> Iterator[FileCase]:
    for label, source in SOURCES.items():
        made = source()
        yield from _valid(label, made, GOOD)
        yield from _names_and_places(label, made)
        yield from _compression_and_encryption(label, made)
        yield from _differences(label, made)
        yield from _end_records(label, made)
        yield from _checksums(label, made)
    for label in ("zip", "TorchScript"):
        yield from _roots_and_orders(label, SOURCES[label]())
    yield FileCase(13, "zip without entries", archive([]), ("zip-layout", "unknown-format"))
    yield FileCase(14, "zip of no entries but bytes", archive([], before=b"PK\3\4"), ("zip-overlap",))
    yield from _code()


def archives(
    number: int, label: str, made: Mapping[str, ZipMembers], *codes: str, **expected: Any
) -> Iterator[FileCase]:
    """Yield a case for each list of members."""
    return table(number, label, {what: archive(m) for what, m in made.items()}, *codes, **expected)


def first(number: int, label: str, made: ZipMembers, changes: Changes, *codes: str) -> Iterator[FileCase]:
    """Yield a case for each set of changed fields of the first member."""
    changed = {what: [replace(made[0], **fields), *made[1:]] for what, fields in changes.items()}
    return archives(number, label, changed, *codes)


def _descriptor(crc: int, size: int, form: str = "III") -> bytes:
    """Return the data descriptor that follows a streamed entry."""
    return b"PK\7\x08" + struct.pack("<" + form, crc, size, size)


def _zip64(*values: int) -> bytes:
    """Return a ZIP64 extra field."""
    return struct.pack(f"<HH{len(values)}Q", 1, 8 * len(values), *values)


def _streamed(member: ZipMember) -> dict[str, Any]:
    """Return the changes that move the sizes of a member to a data descriptor."""
    local = {"flags": member.flags | 8, "crc": 0, "size": 0, "compressed": 0}
    return {"flags": member.flags | 8, "local": local}


def _valid(label: str, made: ZipMembers, tensors: dict[str, np.ndarray]) -> Iterator[FileCase]:
    size = len(made[0].data)
    valid = {
        "as it should be": archive(made),
        "as zipfile wrote before Python 3.11.4": archive(
            [replace(made[0], extra=_zip64(size, size)), *made[1:]]
        ),
        "as torch writes 4 GiB": archive(_wide(made)),
        "with a ZIP64 end record": archive(made, end=end_record64),
    }
    yield from table(0, label, valid, tensors=tensors)


def _wide(made: ZipMembers) -> ZipMembers:
    """Return headers as for an entry of 4 GiB, around a small entry and the entry after it.

    torch leaves the local sizes at 0, adds a ZIP64 field, and then stores the offset of each entry beyond
    4 GiB.
    """
    sizes = [len(member.data) for member in made[:2]]
    ends = [_descriptor(zlib.crc32(m.data), n, "IQQ") for m, n in zip(made, sizes, strict=False)]
    large = replace(
        made[0],
        **_streamed(made[0]),
        extra=_zip64(sizes[0], 0) + b"FB\x03\x00ZZZ",
        after=ends[0],
        size=0xFFFFFFFF,
        compressed=0xFFFFFFFF,
        central_extra=_zip64(sizes[0], sizes[0]),
    )
    at = 30 + len(large.name) + len(large.extra) + sizes[0] + len(large.after)
    far = {"extra": _zip64(at), "after": ends[1], "offset": 0xFFFFFFFF, "central_extra": _zip64(at)}
    return [large, replace(made[1], **_streamed(made[1]), **far), *made[2:]]


def _names_and_places(label: str, made: ZipMembers) -> Iterator[FileCase]:
    """Cases 12 and 14: names of entries, overlaps and gaps."""
    twice = {
        "first again": [*made, made[0]],
        "first again, other bytes": [replace(made[0], data=b"\x80\x02}."), *made],
    }
    yield from archives(12, label, twice, "zip-duplicate-name")
    names = ("../x", "/x", "m//x", "m/./x", "m\\x", "m/x\0", "")
    named = {f"entry named {bad!r}": [*made, ZipMember(bad, b"x")] for bad in names}
    yield from archives(12, label, named, "zip-directory")
    before = {"bytes before": b"hidden", "a header before": b"PK\3\4 hidden"}
    files = {what: archive(made, before=text) for what, text in before.items()}
    yield from table(14, label, files, "zip-overlap", "unknown-format")
    inner = 30 + len(made[0].name) + len(made[0].data) - 20
    moved = {
        f"second entry at {what}": [made[0], replace(made[1], offset=offset), *made[2:]]
        for what, offset in {"the same place": 0, "inside": inner, "beyond": 1 << 31}.items()
    }
    yield from archives(14, label, moved, "zip-overlap", "zip-header-mismatch", "truncated")
    size = len(made[0].data) + 40
    quoted = ZipMember("m/x", archive(made))
    overlaps = {
        "bytes between": [replace(made[0], after=b"hidden"), *made[1:]],
        "bytes after the last": [*made[:-1], replace(made[-1], after=b"hidden")],
        "first entry reaches into the second": [replace(made[0], size=size, compressed=size), *made[1:]],
        "entry within an entry": [quoted, replace(made[0], offset=30 + len(quoted.name)), *made[1:]],
    }
    yield from archives(14, label, overlaps, "zip-overlap")


def _compression_and_encryption(label: str, made: ZipMembers) -> Iterator[FileCase]:
    """Cases 15 and 18."""
    bomb = [*made[:-1], ZipMember(made[-1].name, bytes(30_000_000), method=8)]
    yield from archives(15, label, {"deflated 30 MB": bomb}, "zip-compressed", "zip-layout")
    yield from first(15, label, made, _methods(), "zip-compressed")
    yield from first(18, label, made, _flags(made[0]), "zip-encrypted")


def _differences(label: str, made: ZipMembers) -> Iterator[FileCase]:
    """Case 16: headers that disagree."""
    changes = {**_local_headers(made[0]), "two sizes without compression": {"size": 1}}
    yield from first(16, label, made, changes, "zip-header-mismatch")
    codes = ("zip-header-mismatch", "zip-directory", "zip-overlap")
    yield from first(16, label, made, _extra_fields(made[0]), *codes)


def header_changes(member: ZipMember) -> Changes:
    """Return fields that make the headers of an entry wrong, by label."""
    return {**_methods(), **_flags(member), **_local_headers(member), **_extra_fields(member)}


def _methods() -> Changes:
    return {f"method {n}": {"method": n} for n in (1, 8, 9, 12, 14, 93, 99)}


def _flags(member: ZipMember) -> Changes:
    return {f"flag {flag:#x}": {"flags": member.flags | flag} for flag in (1, 0x41, 0x2000)}


def _local_headers(member: ZipMember) -> Changes:
    size = len(member.data)
    local: Changes = {
        "name": {"name": member.name[:-1] + "x"},
        "size": {"size": size ^ 1},
        "compressed": {"compressed": size ^ 1},
        "crc": {"crc": zlib.crc32(member.data) ^ 1},
        "no sizes": {"size": 0, "compressed": 0, "crc": 0},
        "ZIP64 without values": _FAR,
    }
    return {f"local {what}": {"local": fields} for what, fields in local.items()}


def _extra_fields(member: ZipMember) -> Changes:
    crc, size = zlib.crc32(member.data), len(member.data)
    right, streamed = _descriptor(crc, size), _streamed(member)
    lies: Changes = {
        "a size": {"local": _FAR, "extra": _zip64(size + 1, size)},
        "one value": {"local": _FAR, "extra": _zip64(size)},
        "a size that the header has too": {"extra": _zip64(size + 1, size)},
        "more than the sizes": {"extra": _zip64(size, size, 0)},
        "twice": {"local": _FAR, "extra": _zip64(size, size) * 2},
        "a field that is cut": {"extra": b"\x01\0\xff\xff"},
        "a central size": _FAR | {"central_extra": _zip64(1 << 62, 1 << 62)},
        "a central offset": {"offset": 0xFFFFFFFF, "central_extra": _zip64(1 << 63)},
        "a streamed header": streamed | {"after": right, "extra": _zip64(12345)},
    }
    descriptors = {
        "missing": b"",
        "of another crc": _descriptor(crc ^ 1, size),
        "of another size": right[:-4] + struct.pack("<I", size + 1),
        "too long": right + b"x",
    }
    return {f"ZIP64 lies in {what}": fields for what, fields in lies.items()} | {
        f"descriptor {what}": streamed | {"after": after} for what, after in descriptors.items()
    }


def _end_records(label: str, made: ZipMembers) -> Iterator[FileCase]:
    """Case 16 in the end records."""
    files = {what: archive(made, end=end) for what, end in END_RECORDS.items()}
    codes = ("zip-directory", "zip-header-mismatch", "trailing-bytes", "truncated")
    yield from table(16, f"{label} end record:", files, *codes)


def _checksums(label: str, made: ZipMembers) -> Iterator[FileCase]:
    """Case 17."""
    for index in (2, 0, 1):  # The third is a weight.
        # A checksum of 0 is wrong too.
        crc = zlib.crc32(made[index].data) ^ 1 if index == 2 else 0
        file = archive([*made[:index], replace(made[index], crc=crc), *made[index + 1 :]])
        what = f"{label} of {'a weight' if index == 2 else made[index].name}"
        yield FileCase(17, what, file, ("crc-mismatch",), at_read=index == 2)
        yield FileCase(17, f"{what}, unchecked", file, tensors=GOOD, options={"check_crc": False})


def _roots_and_orders(label: str, made: ZipMembers) -> Iterator[FileCase]:
    """Cases 13 and 28: an ambiguous root directory, and byte orders."""
    pickle, _, weight, *rest = made
    roots = {
        "two roots": [*made, replace(pickle, name="n/data.pkl")],
        "a root within": [*made, replace(pickle, name="m/n/data.pkl")],
        "a root without folder": [replace(pickle, name="data.pkl"), *made],
        "a stray entry": [*made, ZipMember("n/data/0", b"x")],
        "no root": made[1:],
    }
    yield from archives(13, label, roots, "zip-layout")
    big = [pickle, ZipMember("m/byteorder", b"big"), replace(weight, data=WEIGHT.astype(">f4").tobytes())]
    yield from archives(28, label, {"big": [*big, *rest]}, tensors=GOOD)
    orders = (b"middle", b"", b"LITTLE", b"little\n", b"x" * 5000)
    odd = {f"{order[:9]!r}": [pickle, ZipMember("m/byteorder", order), weight, *rest] for order in orders}
    yield from archives(28, label, odd, "byteorder")


def _code() -> Iterator[FileCase]:
    """Case 29: the code in a TorchScript archive is never read."""
    box = ScriptBox()
    root = name("__torch__", "Net") + b")\x81" + mapping(w=box.weight(), training=b"\x89") + b"b"
    made = box.members(b"\x80\x02" + root + b".")
    programs = {
        "that calls": b"import os\nos.system('touch PWNED')\n",
        "that is garbage": bytes(range(256)) * 100,
        "that inflates": bytes(30_000_000),
    }
    small = {label: text for label, text in programs.items() if len(text) < 10**7}
    codes = {f"{label}, stored": ZipMember("m/code/x.py", text) for label, text in small.items()}
    for label, text in programs.items():
        codes[f"{label}, deflated"] = ZipMember("m/code/x.py", text, method=8)
    codes["of another checksum"] = ZipMember("m/code/x.py", b"pass", crc=1)
    yield from archives(29, "TorchScript", {"an object": made}, tensors=GOOD)
    hidden = {label: [*made, code] for label, code in codes.items()}
    yield from archives(29, "TorchScript code", hidden, tensors=GOOD)
    constants = [replace(m, data=b"\x80\x02}.") if m.name.endswith("constants.pkl") else m for m in made]
    yield from archives(29, "TorchScript", {"constants are not a tuple": constants}, "zip-layout")
