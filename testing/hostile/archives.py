"""Hostile zip archives: directory, headers, checksums, roots, byte order and code."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from testing.hostile.formats import Archive, Program, Script, Zip
from testing.hostile.mutation import Edits, Mutation, Table
from testing.hostile.opcodes import WEIGHT, Weight, module
from testing.hostile.zip_archive import (
    EndRecord,
    Member,
    archive,
    descriptor,
    end_record,
    end_record64,
    zip64,
)

ZIPS = (Zip, Script, Program)


END_RECORDS: dict[str, EndRecord] = {
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
"""Wrong end records."""


def streamed(member: Member, **fields: Any) -> Edits:
    """Return the edits that move the sizes of a member to a data descriptor."""
    flags = member.flags | 8
    return Edits(flags=flags, local={"flags": flags, "crc": 0, "size": 0, "compressed": 0}, **fields)


_FAR = {"size": 0xFFFFFFFF, "compressed": 0xFFFFFFFF}
HeaderEdits = dict[str, Edits | Callable[[Member], Edits]]
METHODS: HeaderEdits = {f"method {n}": Edits(method=n) for n in (1, 8, 9, 12, 14, 93, 99)}
FLAGS: HeaderEdits = {f"flag {flag:#x}": Edits(flags=0x800 | flag) for flag in (1, 0x41, 0x2000)}
LOCAL_HEADERS: HeaderEdits = {
    "name": lambda m: Edits(local={"name": m.name[:-1] + "x"}),
    "size": lambda m: Edits(local={"size": len(m.data) ^ 1}),
    "compressed": lambda m: Edits(local={"compressed": len(m.data) ^ 1}),
    "crc": lambda m: Edits(local={"crc": m.checksum ^ 1}),
    "no sizes": Edits(local={"size": 0, "compressed": 0, "crc": 0}),
    "ZIP64 without values": Edits(local=_FAR),
}
"""Local headers that disagree with the directory."""
EXTRA_FIELDS: HeaderEdits = {
    "a size": lambda m: Edits(local=_FAR, extra=zip64(len(m.data) + 1, len(m.data))),
    "one value": lambda m: Edits(local=_FAR, extra=zip64(len(m.data))),
    "a size that the header has too": lambda m: Edits(extra=zip64(len(m.data) + 1, len(m.data))),
    "more than the sizes": lambda m: Edits(extra=zip64(len(m.data), len(m.data), 0)),
    "twice": lambda m: Edits(local=_FAR, extra=zip64(len(m.data), len(m.data)) * 2),
    "a field that is cut": Edits(extra=b"\x01\0\xff\xff"),
    "a central size": Edits(_FAR, central_extra=zip64(1 << 62, 1 << 62)),
    "a central offset": Edits(offset=0xFFFFFFFF, central_extra=zip64(1 << 63)),
    "a streamed header": lambda m: streamed(m, after=descriptor(m), extra=zip64(12345)),
    "descriptor missing": streamed,
    "descriptor of another crc": lambda m: streamed(m, after=descriptor(m, crc=1)),
    "descriptor of another size": lambda m: streamed(m, after=descriptor(m, more=1)),
    "descriptor too long": lambda m: streamed(m, after=descriptor(m) + b"x"),
}
"""Extra fields and data descriptors that lie."""
HEADERS = METHODS | FLAGS | LOCAL_HEADERS | EXTRA_FIELDS


def _wide(members: list[Member]) -> list[Member]:
    """Return headers as for an entry of 4 GiB, around a small entry and the entry after it.

    torch leaves the local sizes at 0, adds a ZIP64 field, and then stores the offset of each entry beyond
    4 GiB.
    """
    first, second, *rest = members
    size = len(first.data)
    large = streamed(first, size=0xFFFFFFFF, compressed=0xFFFFFFFF, central_extra=zip64(size, size))
    large = replace(first, **large, extra=zip64(size, 0) + b"FB\x03\x00ZZZ", after=descriptor(first, "IQQ"))
    at = 30 + len(large.name) + len(large.extra) + size + len(large.after)
    far = streamed(second, extra=zip64(at), central_extra=zip64(at), offset=0xFFFFFFFF)
    return [large, replace(second, **far, after=descriptor(second, "IQQ")), *rest]


def _second_at(place: int) -> Any:
    """Return an edit to the directory's offset of the second entry: within or beyond the first."""
    return lambda members: [members[0], replace(members[1], offset=place), *members[2:]]


def _within(members: list[Member]) -> list[Member]:
    """Return an entry that holds the archive, and the first entry inside of it."""
    quoted = Member("m/x", archive(members))
    return [quoted, replace(members[0], offset=30 + len(quoted.name)), *members[1:]]


def _reaching(member: Member) -> Edits:
    return Edits(size=len(member.data) + 40, compressed=len(member.data) + 40)


OBJECT = module("__torch__", "Net", w=Weight(), training=False)
PROGRAMS = {
    "that calls": b"import os\nos.system('touch PWNED')\n",
    "that is garbage": bytes(range(256)) * 100,
    "that inflates": bytes(30_000_000),
}
CODE = {f"{label}, deflated": Member("m/code/x.py", text, method=8) for label, text in PROGRAMS.items()} | {
    "that calls": Member("m/code/x.py", PROGRAMS["that calls"]),
    "that is garbage": Member("m/code/x.py", PROGRAMS["that is garbage"]),
    "of another checksum": Member("m/code/x.py", b"pass", crc=1),
}
SWAPPED = WEIGHT.astype(">f4").tobytes()


CHECKSUMS = {"crc of the first": Edits({"0.crc": 0}), "crc of the second": Edits({"1.crc": 0})}
UNCHECKED = {f"crc {n} unchecked": Edits({f"{n}.crc": crc}) for n, crc in enumerate((0, 0, 1))}


def added(*members: Member) -> Any:
    return lambda others: [*others, *members]


TABLE: Table = {
    Mutation(0, ZIPS, ""): {
        "as zipfile wrote before Python 3.11.4": Edits(
            {"members.0": lambda m: Edits(extra=zip64(len(m.data), len(m.data)))}
        ),
        "as torch writes 4 GiB": Edits(members=_wide),
        "with a ZIP64 end record": Edits(end=lambda end: end_record64),
    },
    Mutation(8, Archive, "", "zip-directory"): {
        "60,000 entries": Edits(
            members=[Member(f"m/{i}", b"") for i in range(60_000)], end=lambda end: end_record64
        )
    },
    Mutation(12, ZIPS, "members", "zip-duplicate-name"): {
        "first again": lambda members: [*members, members[0]],
        "first again, other bytes": lambda members: [replace(members[0], data=b"\x80\x02}."), *members],
    },
    Mutation(12, ZIPS, "members", "zip-directory"): {
        f"entry named {name!r}": added(Member(name, b"x"))
        for name in ("../x", "/x", "m//x", "m/./x", "m\\x", "m/x\0", "")
    },
    Mutation(13, (Zip, Script), "members", "zip-layout"): {
        "two roots": lambda members: [*members, replace(members[0], name="n/data.pkl")],
        "a root within": lambda members: [*members, replace(members[0], name="m/n/data.pkl")],
        "a root without folder": lambda members: [replace(members[0], name="data.pkl"), *members],
        "a stray entry": added(Member("n/data/0", b"x")),
        "no root": lambda members: members[1:],
    },
    Mutation(13, Archive, "members", "zip-layout unknown-format"): {"of no entries": []},
    Mutation(14, Archive, "before", "zip-overlap"): {"of no entries, but bytes": b"PK\3\4"},
    Mutation(14, ZIPS, "before", "zip-overlap unknown-format"): [b"hidden", b"PK\3\4 hidden"],
    Mutation(14, ZIPS, "members", "zip-overlap zip-header-mismatch truncated"): {
        "second entry at the same place": _second_at(0),
        "second entry inside": lambda m: _second_at(30 + len(m[0].name) + len(m[0].data) - 20)(m),
        "second entry beyond": _second_at(1 << 31),
    },
    Mutation(14, ZIPS, "", "zip-overlap"): {
        "bytes between": Edits({"members.0.after": b"hidden"}),
        "bytes after the last": Edits({"members.-1.after": b"hidden"}),
        "first entry reaches into the second": Edits({"members.0": _reaching}),
        "entry within an entry": Edits(members=_within),
    },
    Mutation(15, ZIPS, "members.-1", "zip-compressed zip-layout"): {
        "deflated 30 MB": Edits(data=bytes(30_000_000), method=8)
    },
    Mutation(15, ZIPS, "members.0", "zip-compressed"): METHODS,
    Mutation(16, ZIPS, "members.0", "zip-header-mismatch"): LOCAL_HEADERS | {"two sizes": Edits(size=1)},
    Mutation(16, ZIPS, "members.0", "zip-header-mismatch zip-directory zip-overlap"): EXTRA_FIELDS,
    Mutation(16, ZIPS, "end", "zip-directory zip-header-mismatch trailing-bytes truncated"): {
        label: lambda _, end=end: end for label, end in END_RECORDS.items()
    },
    Mutation(17, ZIPS, "members.2.crc", "crc-mismatch", at_read=True): {"of a weight": 1},
    Mutation(17, ZIPS, "members", "crc-mismatch"): CHECKSUMS,
    Mutation(17, ZIPS, "members", options={"check_crc": False}): UNCHECKED,
    Mutation(17, Program, "members", "crc-mismatch"): {"3": Edits({"3.crc": 1}), "5": Edits({"5.crc": 1})},
    Mutation(18, ZIPS, "members.0", "zip-encrypted"): FLAGS,
    Mutation(28, (Zip, Script), ""): {"big": Edits({"byteorder": b"big", "root.w.data": SWAPPED})},
    Mutation(28, Program, ""): {"big": Edits(byteorder=b"big", weight=SWAPPED)},
    Mutation(28, ZIPS, "byteorder", "byteorder"): [b"middle", b"", b"LITTLE", b"little\n", b"x" * 5000],
    # The code in a TorchScript archive is never read.
    Mutation(29, Script, "root"): {"an object": OBJECT},
    Mutation(29, Script, ""): {
        f"code {label}": Edits(root=OBJECT, members=added(code)) for label, code in CODE.items()
    },
    Mutation(29, Script, "", "zip-layout"): {"constants are not a tuple": Edits(root=OBJECT, constants=b"}")},
}
