"""Cases 8 and 9 continued: small files that make a naive reader use much time or memory.

Each repeats something that a reader does for every mention in the file: create an object, hash a key,
decode a string, build a name, open a storage. One machine reads the pickles of all containers.
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
    LegacyBox,
    PlainBox,
    ZipBox,
    ZipMember,
    archive,
    end_record64,
    integer,
    integers,
    name,
    sequence,
    text,
)
from testing.checkpoints.case import FileCase, table
from testing.hostile.formats import safetensors

N = 300_000


def cases() -> Iterator[FileCase]:
    yield from ZipBox().table(8, dict(_objects()), "pickle-budget")
    yield from _work()
    yield from _plain()
    yield from _entries()


def _objects() -> Iterator[tuple[str, bytes]]:
    """Yield tuples of many small objects, each of which must be accounted for."""
    bodies = {
        "dictionaries": b"}K\x01Ns" * 2 * N,
        "numbers": (b"J\0\0\1\1") * 5 * N,
        "globals": b"ca\nb\n" * 3 * N,
        "placeholders": name("a", "b") + b"q\x000" + b"h\x00)R" * 2 * N,
        "refused tensors": name("torch._utils", "_rebuild_x") + b"q\x000" + b"h\x00)R" * 2 * N,
        "memo places": b"".join(b"Nr" + struct.pack("<I", i) for i in range(3 * N)),
        "texts that widen": text("😀" + "x" * 65_000) * 300,
    }
    for label, body in bodies.items():
        yield f"bomb of {label}", b"(" + body + b"t"


def _work() -> Iterator[FileCase]:
    """Work that repeats for each mention."""
    box = ZipBox()
    key = b"(" + b"N" * 1_000_000 + b"tq\x000(" + b"}h\x00Ns" * N + b"t"
    yield box.case(9, "bomb: a key of 1,000,000 elements", key, "pickle-malformed")
    members = name("a", "B") + b")\x81q\x000h\x00}("
    members += b"".join(text(key) + b"}" for key in ("_parameters", "_buffers", "_modules"))
    unsaved = text("_non_persistent_buffers_set") + b"\x8f(" + b"h\x00" * 50_000 + b"\x90"
    roots = {
        "keys that are not names": b"}(" + b"C\x01aN" * 100_000 + b"uq\x000(" + b"h\x00" * N + b"t",
        "a module's set of buffers": members + unsaved + b"ub0(" + b"h\x00" * N + b"t",
    }
    files = {f"bomb: {label}": box.file(root, head=b"\x80\x04") for label, root in roots.items()}
    yield from table(9, box.label, files, "node-budget")
    long = text("k" * 60_000) + b"q\x000}h\x00Nsq\x010"
    yield box.case(9, "bomb: a name of 60,000 letters", long + b"(" + b"h\x01" * N + b"t")
    many = b"}(" + b"".join(text(str(i)) + b"h\x00" for i in range(20_000)) + b"u"
    inner = box.weight() + b"q\x000}" + text("k" * 3_900) + many + b"s"
    yield box.case(9, "bomb: long names of tensors", inner, "node-budget")
    for dims in (2, 64):
        size = integers(*(1,) * dims)
        args = sequence(box.storage(), integer(0), size, size, b"\x89", ORDERED)
        mentions = REBUILD + b"q\x000" + args + b"q\x010(" + b"h\x00h\x01R" * N + b"t"
        yield box.case(9, f"bomb: tensors of {dims} dimensions", mentions, "pickle-budget")


def _plain() -> Iterator[FileCase]:
    """Strings to decode, and files nested in files."""
    box, inner = PlainBox(), LegacyBox()
    raw = (WEIGHT.tobytes() * 5_000).decode("latin1").encode()
    encode = name("_codecs", "encode") + b"q\x000X" + struct.pack("<I", len(raw)) + raw
    again = b"q\x010(" + b"h\x00h\x01R" * N + b"t"
    yield box.case(9, "bomb: one text, decoded again", encode + text("latin1") + b"\x86" + again)
    nested = inner.file(inner.storage())
    load = name("torch.storage", "_load_from_bytes") + b"q\x000"
    once = b"B" + struct.pack("<I", len(nested)) + nested + b"\x85"
    yield box.case(9, "bomb: one storage, opened again", load + once + again)
    for _ in range(4):
        nested = b"\x80\x02" + load + b"B" + struct.pack("<I", len(nested)) + nested + b"\x85R."
    deep = {"storages within storages": nested}
    yield from table(10, box.label, deep, "legacy-header", "pickle-malformed")


def _entries() -> Iterator[FileCase]:
    """Directories and headers with many entries."""
    raw = io.BytesIO()
    np.save(raw, np.zeros(0, "<f4"))
    members = [ZipMember(f"{i}.npy", raw.getvalue()) for i in range(60_000)]
    yield FileCase(8, "npz bomb of 60,000 arrays", archive(members, end=end_record64), ("zip-directory",))
    files = {str(n): safetensors(b'{"a":[' + b"[]," * n + b"1]}") for n in (600_000, 6_000_000)}
    yield from table(8, "safetensors bomb of lists:", files, "safetensors-header")
    lists = b'{"weight_map":{},"a":[' + b"[]," * 3_000_000 + b"1]}"
    yield FileCase(8, "index bomb of lists", lists, ("unknown-format",))
