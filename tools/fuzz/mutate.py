"""File number `index` of the fuzzer: a valid file with some bits, numbers and ranges of bytes changed.

The entries of an archive are edited one by one, and packed again with right checksums and sizes. Ranges come
from all valid files. `testing/hostile` has the cases that the edits do not reach.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import MutableSequence
from dataclasses import dataclass, replace
from functools import cache
from random import Random
from typing import Any

from testing.checkpoints.assemble import ZipMember, archive
from testing.checkpoints.case import Seed, seeds
from testing.hostile import archives

# Boundary values for a reader's arithmetic: signs, integer widths, cache sizes and limits.
NUMBERS = [(1 << bits) - less for bits in (0, 2, 6, 8, 12, 16, 31, 32, 48, 62, 63, 64) for less in (1, 0)]
# Numbers and words in JSON texts, NumPy headers and protocol 0 of pickle.
WORDS = re.compile(rb"-?\b\d{1,20}\b|\"[^\"\0]{0,40}\"|'[^'\0]{0,40}'")
HEAD = 1 << 12


@dataclass(frozen=True)
class Mutant(Seed):
    """A mutated checkpoint, named for its seed, and the arguments for reading it."""

    options: dict[str, bool]


def mutant(seed: int, index: int, only: str = "") -> Mutant:
    """Return the mutant of a seed and an index.

    With `only`, the mutant is of a valid file whose name starts with this text.
    """
    rng = Random(f"{seed}-{index}")
    origin = rng.choice([origin for origin in seeds() if origin.name.startswith(only)])
    files = dict(origin.files)
    for name in rng.sample(list(files), min(len(files), rng.choice((1, 1, 1, 2)))):
        edits = rng.choice((1, 1, 1, 1, 2, 2, 3, 5))
        edit = edit_zip if entries(files[name]) and rng.random() < 0.85 else edit_bytes
        files[name] = edit(rng, files[name], edits)
    return Mutant(origin.name, files, origin.opened, {"check_crc": rng.random() < 0.8})


@cache
def entries(raw: bytes) -> tuple[ZipMember, ...]:
    """Return the entries of an archive, none for another file."""
    if not raw.startswith(b"PK"):
        return ()
    with zipfile.ZipFile(io.BytesIO(raw)) as opened:
        return tuple(ZipMember(i.filename, opened.read(i), i.compress_type) for i in opened.infolist())


@cache
def corpus() -> list[bytes]:
    """Return all valid files, archives as their entries."""
    files = [raw for seed in seeds() for raw in seed.files.values()]
    return [part for raw in files for part in [member.data for member in entries(raw)] or [raw]]


def number(rng: Random, old: int) -> int:
    """Return a number near the old one or a special one; it may be negative or exceed any width."""
    near = (old + rng.choice((-8, -4, -1, 1, 4, 8)), old * rng.choice((-1, 0, 2, 3, 8)), old // 2)
    return rng.choice((*near, rng.choice(NUMBERS) * rng.choice((1, 1, -1)), rng.getrandbits(31)))


def edit_zip(rng: Random, raw: bytes, edits: int) -> bytes:
    """Edit entries, headers or the directory; other checksums and sizes stay correct."""
    members, options = list(entries(raw)), {}
    for _ in range(edits):
        at, what = rng.randrange(len(members) or 1), rng.randrange(20)
        if what == 0:
            options["end"] = rng.choice(list(archives.END_RECORDS.values()))
        elif what < 3 or not members:
            edit_range(rng, members, list(entries(raw)))
        elif what < 6:
            members[at] = replace(members[at], **rng.choice([*archives.header_changes(members[at]).values()]))
        else:
            members[at] = replace(members[at], data=edit_bytes(rng, members[at].data, 1))
    return archive(members, before=rng.randbytes(rng.choice((0,) * 20 + (1, 8))), **options)


def edit_range(rng: Random, items: MutableSequence[Any], other: MutableSequence[Any] | bytes) -> None:
    """Delete, repeat or swap a range of items, or put a range of other items over it or before it."""
    start, length = rng.randrange(len(items) or 1), rng.choice((1, 2, 3, 4, 8, 16, 64, 256))
    run, first = items[start : start + length], rng.randrange(len(other) or 1)
    match rng.randrange(5):
        case 0 if rng.random() < 0.2:
            del items[start:]
        case 0:
            del items[start : start + length]
        case 1:
            items[start:start] = [*run] * rng.choice((1, 1, 2, 9))
        case 2:
            at = rng.randrange(len(items) or 1)
            items[start : start + length], items[at : at + length] = items[at : at + length], run
        case what:
            items[start : start + length * (what == 3)] = other[first : first + length]


def edit_bytes(rng: Random, raw: bytes, edits: int) -> bytes:
    """Flip a bit, change a number or a word, or edit a range of bytes."""
    made = bytearray(raw)
    for _ in range(edits):
        what = rng.randrange(8)
        # Most headers and counts are near the start.
        at = rng.randrange(min(len(made), rng.choice((64, HEAD, 1 << 30))) or 1)
        words = list(WORDS.finditer(made, 0, HEAD)) if what < 3 else []
        if words:
            word = rng.choice(words)
            others = [b"null", *WORDS.findall(rng.choice(corpus()), 0, HEAD)]
            digits = word[0].lstrip(b"-").isdigit()
            made[slice(*word.span())] = b"%d" % number(rng, int(word[0])) if digits else rng.choice(others)
        elif what < 5:
            width = rng.choice((1, 2, 4, 8))
            value = number(rng, int.from_bytes(made[at : at + width], "little"))
            made[at : at + width] = (value % (1 << 8 * width)).to_bytes(width, "little")
        elif what == 5:
            made[at : at + 1] = bytes(byte ^ 1 << rng.randrange(8) for byte in made[at : at + 1])
        else:
            edit_range(rng, made, rng.choice(corpus()))
    return bytes(made)
