"""Mutations of zip and tar archives: entries, headers, directories and contents."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable
from functools import lru_cache
from random import Random
from typing import Any

from testing.checkpoints.assemble import Member, archive, end_record, end_record64
from tools.fuzz.plain_bytes import edit_bytes, edit_sequence, fixed, number, text

Mutate = Callable[[Random, bytes], bytes]

FIELDS = ("method", "flags", "crc", "size", "compressed", "offset")
WIDTH = {"method": 2, "flags": 2, "n_extra": 2}
BITS = (0, 1, 8, 0x40, 0x800, 0x808, 0x2000)
ENTRIES = ("byteorder", "constants.pkl", "data.pkl", "data/0", "code/a.py", ".format_version", "b.npy")


@lru_cache(2000)
def _zip(raw: bytes) -> tuple[tuple[str, bytes, int], ...]:
    with zipfile.ZipFile(io.BytesIO(raw)) as opened:
        return tuple((i.filename, opened.read(i), i.compress_type) for i in opened.infolist())


def mutate_zip(rng: Random, raw: bytes, edits: int, mutate: Mutate) -> bytes:
    """Edit the archive; checksums and sizes stay correct unless an edit breaks them."""
    members = [Member(*entry) for entry in _zip(raw)]
    options: dict[str, Any] = {}
    for _ in range(edits):
        what = rng.randrange(20)
        if not members or what == 0:
            options["end"] = _end(rng)
        elif what == 1:
            options["before"] = rng.randbytes(rng.randrange(9))
        elif what < 4:
            edit_sequence(rng, members)
        elif what < 8:
            _edit_header(rng, rng.choice(members))
        elif what == 8:
            _edit_name(rng, members)
        else:
            # The JSON texts of a program are few among its entries, and decide the most.
            weights = [8 if member.data.startswith(b"{") else 1 for member in members]
            (member,) = rng.choices(members, weights)
            member.data = mutate(rng, member.data)
    return archive(members, **options)


def _edit_header(rng: Random, member: Member) -> None:
    """Edit a field of the directory, of the local header, or of both."""
    field = rng.choice((*FIELDS, "extra", "central_extra", "after"))
    if field in ("extra", "central_extra", "after"):
        wide = fixed(rng.choice((0, 1, 0xFFFF)), 2) + fixed(8, 2) + fixed(len(member.data), 8)
        setattr(member, field, rng.choice((wide, wide * 2, rng.randbytes(16), wide[:-1])))
        return
    old = {"size": len(member.data), "compressed": len(member.data)}.get(field, 0)
    made = rng.choice(BITS) if field == "flags" else number(rng, old)
    made %= 1 << 8 * WIDTH.get(field, 4)
    if field != "offset" and rng.random() < 0.5:
        member.local[field] = made
    else:
        setattr(member, field, made)


def _edit_name(rng: Random, members: list[Member]) -> None:
    member = rng.choice(members)
    folder = member.name.partition("/")[0]
    made = rng.choice((text(rng, member.name), f"{folder}/{rng.choice(ENTRIES)}"))
    made = made.encode("utf-8", "replace").decode()[:9_000]
    if rng.random() < 0.3:
        member.local["name"] = made
    elif rng.random() < 0.5:
        member.name = made
    else:
        members.append(Member(made, rng.choice(members).data))


def _end(rng: Random) -> Callable[[int, int, int], bytes]:
    """Return an end record with one wrong number, a ZIP64 record that may be inconsistent, or a comment."""

    def wrong(count: int, size: int, start: int) -> bytes:
        numbers = [count, size, start]
        at = rng.randrange(3)
        numbers[at] = number(rng, numbers[at]) % (1 << (16 if at == 0 else 32))
        return end_record(numbers[0], numbers[1], numbers[2])

    def wide(count: int, size: int, start: int) -> bytes:
        numbers = [count, size, start]
        at = rng.randrange(4)
        if at < 3:
            numbers[at] = number(rng, numbers[at]) % (1 << 64)
        lie = (count, size, start) if rng.random() < 0.3 else None
        return end_record64(numbers[0], numbers[1], numbers[2], lie=lie, at=start + size if at < 3 else None)

    def comment(count: int, size: int, start: int) -> bytes:
        return end_record(count, size, start, b"PK\5\6 comment")

    return rng.choice((wrong, wrong, wide, wide, comment))


@lru_cache(2000)
def _tar(raw: bytes) -> tuple[tuple[str, bytes, bytes], ...]:
    with tarfile.open(fileobj=io.BytesIO(raw)) as opened:
        files = ((info, opened.extractfile(info)) for info in opened)
        return tuple((info.name, info.type, file.read()) for info, file in files if file)


def mutate_tar(rng: Random, raw: bytes, edits: int, mutate: Mutate) -> bytes:
    """Edit members; header checksums stay correct unless an edit breaks them."""
    members = list(_tar(raw))
    headers: dict[int, dict[str, Any]] = {}
    for _ in range(edits):
        what = rng.randrange(8)
        at = rng.randrange(len(members)) if members else 0
        if what == 0 or not members:
            edit_sequence(rng, members)
        elif what == 1:
            headers[at] = {rng.choice(("name", "linkname", "type", "size", "raw")): rng}
        else:
            title, kind, data = members[at]
            members[at] = title, kind, mutate(rng, data)
    made = b"".join(_member(*member, edits=headers.get(index, {})) for index, member in enumerate(members))
    return made + bytes(rng.choice((0, 512, 1024, 1024, 1024)))


def _member(title: str, kind: bytes, data: bytes, *, edits: dict[str, Random]) -> bytes:
    info = tarfile.TarInfo(title)
    info.size = len(data)
    for field, rng in edits.items():
        if field == "type":
            info.type = rng.choice((b"0", b"1", b"2", b"5", b"6", b"x", b"g", b"L", b"S", b"\0"))
        elif field == "size":
            info.size = number(rng, len(data)) % (1 << 33)
        elif field != "raw":
            setattr(info, field, text(rng, title).encode("ascii", "ignore").decode()[:90])
    header = info.tobuf(tarfile.USTAR_FORMAT)
    if "raw" in edits:
        header = edit_bytes(edits["raw"], header)[:512].ljust(512, b"\0")
    return header + data + bytes(-len(data) % 512)
