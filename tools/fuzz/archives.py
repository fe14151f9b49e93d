"""Mutations of zip archives: entries, headers, directories and contents."""

from __future__ import annotations

import io
import zipfile
from functools import lru_cache
from random import Random
from typing import Any

from testing.checkpoints.assemble import ZipMember, archive
from testing.hostile.archives import END_RECORDS
from tools.fuzz.plain_bytes import Mutate, edit_sequence, fixed, number, text

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
    members = [ZipMember(*entry) for entry in _zip(raw)]
    options: dict[str, Any] = {}
    for _ in range(edits):
        what = rng.randrange(20)
        if not members or what == 0:
            options["end"] = rng.choice(list(END_RECORDS.values()))
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


def _edit_header(rng: Random, member: ZipMember) -> None:
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


def _edit_name(rng: Random, members: list[ZipMember]) -> None:
    member = rng.choice(members)
    folder = member.name.partition("/")[0]
    made = rng.choice((text(rng, member.name), f"{folder}/{rng.choice(ENTRIES)}"))
    made = made.encode("utf-8", "replace").decode()[:9_000]
    if rng.random() < 0.3:
        member.local["name"] = made
    elif rng.random() < 0.5:
        member.name = made
    else:
        members.append(ZipMember(made, rng.choice(members).data))
