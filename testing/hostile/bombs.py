"""Cases 8 and 9 continued: small files that make a naive reader use much time or memory.

Each repeats something that a reader does for every mention in the file: create an object, hash a key,
decode a string, build a name, open a storage.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator

import numpy as np

from testing.checkpoints.assemble import (
    ORDERED,
    REBUILD,
    WEIGHT,
    Box,
    LegacyBox,
    Member,
    PlainBox,
    ZipBox,
    archive,
    end_record64,
    integer,
    integers,
    name,
    sequence,
    text,
)
from testing.checkpoints.case import Case
from testing.hostile.formats import safetensors

BUDGET = ("pickle-budget",)
N = 300_000


def cases() -> Iterator[Case]:
    for make in (ZipBox, LegacyBox, PlainBox):
        yield from _objects(make)
    yield from _work(ZipBox)
    yield from _plain()
    yield from _entries()


def _objects(make: type[Box]) -> Iterator[Case]:
    """Many small objects, each of which must be accounted for."""
    bodies = {
        "dictionaries": b"}K\x01Ns" * 2 * N,
        "lists of one": b"]Na" * 2 * N,
        "tuples": b"N\x85" * 4 * N,
        "numbers": (b"J\0\0\1\1") * 5 * N,
        "globals": b"ca\nb\n" * 3 * N,
        "placeholders": name("a", "b") + b"q\x000" + b"h\x00)R" * 3 * N,
        "refused tensors": name("torch._utils", "_rebuild_x") + b"q\x000" + b"h\x00)R" * 3 * N,
        "ordered dictionaries": name("collections", "OrderedDict") + b"q\x000" + b"h\x00)R" * 3 * N,
        "memo places": b"".join(b"Nr" + struct.pack("<I", i) for i in range(4 * N)),
        "texts that widen": text("😀" + "x" * 65_000) * 300,
    }
    for label, body in bodies.items():
        file = make().file(b"(" + body + b"t")
        codes = ("missing-storage", *BUDGET)
        # One machine reads the pickles of all containers, and counts the objects of all kinds.
        slow = make is not ZipBox or label in ("tuples", "numbers", "refused tensors", "ordered dictionaries")
        yield Case(8, f"{make.label} bomb of {label}", file, codes, slow=slow)


def _work(make: type[Box]) -> Iterator[Case]:
    """Work that repeats for each mention."""
    one = b"(" + b"".join(b"N" for _ in range(1_000_000)) + b"tq\x000"
    file = make().file(one + b"(" + b"}h\x00Ns" * N + b"t")
    yield Case(9, f"{make.label} bomb: a key of 1,000,000 elements", file, ("pickle-malformed",))
    keys = b"}(" + b"C\x01aN" * 100_000 + b"uq\x000"
    file = make().file(keys + b"(" + b"h\x00" * N + b"t")
    yield Case(9, f"{make.label} bomb: keys that are not names", file, ("node-budget",))
    long = text("k" * 60_000) + b"q\x000}h\x00Nsq\x010"
    file = make().file(long + b"(" + b"h\x01" * N + b"t")
    yield Case(9, f"{make.label} bomb: a name of 60,000 letters", file)
    box = make()
    many = b"}(" + b"".join(text(str(i)) + b"h\x00" for i in range(20_000)) + b"u"
    inner = box.weight() + b"q\x000}" + text("k" * 3_900) + many + b"s"
    yield box.case(9, "bomb: long names of tensors", inner, "node-budget")
    members = (
        name("a", "B")
        + b")\x81q\x000h\x00}("
        + b"".join(text(key) + b"}" for key in ("_parameters", "_buffers", "_modules"))
    )
    unsaved = text("_non_persistent_buffers_set") + b"\x8f(" + b"h\x00" * 50_000 + b"\x90"
    file = make().file(members + unsaved + b"ub0(" + b"h\x00" * N + b"t", head=b"\x80\x04")
    yield Case(9, f"{make.label} bomb: a module's set of buffers", file, ("node-budget",))
    for dims in (2, 64):
        box = make()
        size = integers(*(1,) * dims)
        args = sequence(box.storage(), integer(0), size, size, b"\x89", ORDERED)
        mentions = REBUILD + b"q\x000" + args + b"q\x010(" + b"h\x00h\x01R" * N + b"t"
        file = box.file(mentions)
        yield Case(9, f"{make.label} bomb: tensors of {dims} dimensions", file, BUDGET)


def _plain() -> Iterator[Case]:
    """Strings to decode, and files nested in files."""
    raw = (WEIGHT.tobytes() * 5_000).decode("latin1").encode()
    encode = name("_codecs", "encode") + b"q\x000X" + struct.pack("<I", len(raw)) + raw
    args = text("latin1") + b"\x86q\x010("
    file = b"\x80\x02" + encode + args + b"h\x00h\x01R" * N + b"t."
    yield Case(9, "pickle bomb: one text, decoded again", file)
    box = LegacyBox()
    inner = box.file(box.storage())
    nested = b"B" + struct.pack("<I", len(inner)) + inner + b"\x85"
    load = name("torch.storage", "_load_from_bytes") + b"q\x000"
    file = b"\x80\x02" + load + nested + b"q\x010(" + b"h\x00h\x01R" * N + b"t."
    yield Case(9, "pickle bomb: one storage, opened again", file)
    deeper = nested
    for _ in range(3):
        body = b"\x80\x02" + load + deeper + b"R."
        deeper = b"B" + struct.pack("<I", len(body)) + body + b"\x85"
    file = b"\x80\x02" + load + deeper + b"R."
    yield Case(10, "pickle storages within storages", file, ("legacy-header", "pickle-malformed"))


def _entries() -> Iterator[Case]:
    """Directories and headers with many entries."""
    raw = io.BytesIO()
    np.save(raw, np.zeros(0, "<f4"))
    members = [Member(f"{i}.npy", raw.getvalue()) for i in range(60_000)]
    file = archive(members, end=end_record64)
    yield Case(8, "npz bomb of 60,000 arrays", file, ("zip-directory",))
    for n in (600_000, 6_000_000):
        header = b'{"a":[' + b"[]," * n + b"1]}"
        yield Case(8, f"safetensors bomb of {n} lists", safetensors(header), ("safetensors-header",))
    lists = b'{"weight_map":{},"a":[' + b"[]," * 3_000_000 + b"1]}"
    yield Case(8, "index bomb of lists", lists, ("unknown-format",))
