"""Hostile safetensors files, shards, NumPy pickles and nearly empty files, and paths of other kinds."""

import io
import json
import pickle
import tarfile
from typing import Any

import numpy as np

from testing.hostile.formats import (
    File,
    FlatProgram,
    FolderProgram,
    Legacy,
    NotAFile,
    Plain,
    Program,
    Safetensors,
    Script,
    Shards,
    Sparse,
    Zip,
    entry,
)
from testing.hostile.mutation import Edits, Mutation, Table
from testing.hostile.opcodes import WEIGHT, Weight

VALID = (Zip, Script, Legacy, Plain, Program, FlatProgram, FolderProgram, Safetensors)


def _tensors(data: bytes, *entries: dict[str, Any]) -> Edits:
    """Return edits to a header of other entries, and to the data."""
    return Edits(header=dict(zip("wv", entries, strict=False)), data=data)


def _deep(key: str, depth: int) -> bytes:
    """Return a header in which the shape or dtype is lists within lists."""
    parts = {"dtype": '"F32"', "shape": "[2,2]", "data_offsets": "[0,16]"} | {key: "[" * depth + "]" * depth}
    return b'{"w":{%s}}' % ",".join(f'"{key}":{value}' for key, value in parts.items()).encode()


def _tar() -> bytes:
    """Return a tar archive of a link."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:") as tar:
        link = tarfile.TarInfo("../tensors")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return raw.getvalue()


NAN = np.full((2, 2), np.nan, "<f4")
ENTRY = json.dumps({"w": entry()}).encode()
TENSORS = b",".join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % n for n in range(150_000))
WHOLE = Zip().content
DUMPED = pickle.dumps({"w": WEIGHT}, 4)
SHAPE = b"K\x02K\x02\x86"
PATHS = ("../outside", "/etc/passwd", "x/../../outside", "a\0", "..\\outside", "a/b", "..", ".", "")
# A file of 90,000 references, which takes most of the budget of one.
MANY = Zip(root={"w": Weight(), "x": b"](" + b"N" * 300 + b"eq\x010](" + b"h\x01" * 300 + b"e"}).content
LINKS = ("../outside", "/etc/passwd", "..", "/dev/zero", "/proc/self/mem")

TABLE: Table = {
    Mutation(0, VALID, ""): {"as it should be": Edits()},
    Mutation(0, Shards, "", tensors={"w": WEIGHT, "v": WEIGHT}): {"as they should be": Edits()},
    Mutation(8, Safetensors, "header", "safetensors-header"): {
        f"{n} lists": b'{"a":[' + b"[]," * n + b"1]}" for n in (600_000, 6_000_000)
    },
    Mutation(8, File, "content", "unknown-format"): {
        "index of lists": b'{"weight_map":{},"a":[' + b"[]," * 3_000_000 + b"1]}"
    },
    Mutation(9, Shards, "", "node-budget"): {
        "400 shards": Edits(
            files={f"s{i}": MANY for i in range(400)}, weight_map={f"w{i}": f"s{i}" for i in range(400)}
        )
    },
    Mutation(20, File, "content", "tensor-bounds storage-size tensor-shape pickle-malformed"): {
        "numpy pickle of more rows": DUMPED.replace(SHAPE, b"K\x03K\x02\x86"),
        "numpy pickle of fewer rows": DUMPED.replace(SHAPE, b"K\x01K\x02\x86"),
        "numpy pickle of no rows": DUMPED.replace(SHAPE, b"K\x02]\x94\x86"),
        "numpy pickle of another byte order": DUMPED.replace(b"\x8c\x01<", b"\x8c\x01!"),
        "numpy pickle without data": pickle.dumps({"w": WEIGHT}, 3).replace(
            b"C\x10" + WEIGHT.tobytes(), b"N"
        ),
    },
    Mutation(31, File, "content", "unknown-format"): {"tar with a link": _tar()},
    Mutation(33, Safetensors, "header", "duplicate-key"): {
        "key twice": ENTRY[:-1] + b"," + ENTRY[1:],
        "key twice, other dtype": ENTRY[:-1] + b"," + ENTRY.replace(b"F32", b"I32")[1:],
        "key twice within an entry": ENTRY.replace(b'"shape"', b'"dtype": "I32", "shape"'),
    },
    Mutation(34, Safetensors, "length", "unknown-format"): [1 << 63, (1 << 64) - 1, 1 << 40, 200_000_000],
    Mutation(34, Safetensors, "", "safetensors-layout"): {
        "overlap": _tensors(bytes(24), entry(), entry(offsets=(8, 24))),
        "same bytes": _tensors(bytes(16), entry(), entry()),
        "hole": _tensors(bytes(36), entry(), entry(offsets=(20, 36))),
    },
    Mutation(34, Safetensors, "data", "trailing-bytes"): {"17 bytes": bytes(17)},
    Mutation(34, Safetensors, "data", "truncated"): {"15 bytes": bytes(15)},
    Mutation(34, Safetensors, "header", "safetensors-header"): {
        "backwards": {"w": entry(offsets=(16, 0))},
        "more keys": {"w": entry() | {"x": 1}},
        "metadata": {"__metadata__": {"a": 1}, "w": entry()},
        "not JSON": b"{'w': 1}",
        "constant NaN": b'{"w": NaN}',
        "not UTF-8": b'{"\xff": 1}',
        "long number": b'{"w":' + b"9" * 10_000 + b"}",
        "1,000,000 brackets": b'{"w":' + b"[" * 1_000_000,
        "150,000 tensors": b"{" + TENSORS + b"}",
    },
    Mutation(35, Safetensors, "header.w.shape", "tensor-bounds"): [(1 << 33, 1 << 31), (3, 2)],
    Mutation(35, Safetensors, "header.w.shape", "tensor-shape"): {"65 ones": (1,) * 65, "True": (True, 4)},
    Mutation(35, Safetensors, "", "tensor-shape"): {"0 x 2^60": _tensors(b"", entry((0, 1 << 60), (0, 0)))},
    Mutation(35, Safetensors, "header.w.shape", "storage-size"): [(1, 2)],
    Mutation(35, Safetensors, "header.w.dtype", "unsupported-tensor"): ["F4"],
    # Depths around the limit of Python's stack.
    Mutation(35, Safetensors, "header", "safetensors-header tensor-shape unsupported-tensor"): {
        f"{key} {depth} deep": _deep(key, depth) for key in ("shape", "dtype") for depth in range(930, 990, 3)
    },
    Mutation(36, Shards, "weight_map.w", "shard-path"): [*PATHS, 1],
    Mutation(36, Shards, "", "shard-path"): {
        f"link to {link}": Edits(weight_map={"w": "link"}, link=link) for link in LINKS
    },
    Mutation(36, Shards, "", "shard-mismatch shard-path"): {
        "link in circles": Edits(weight_map={"w": "link"}, link="link")
    },
    Mutation(36, File, "content", "shard-path"): {"invalid text": b'{"weight_map": {"w": "\\ud800"}}'},
    Mutation(37, Shards, "weight_map", "shard-mismatch"): {
        "lacks a tensor": {"w": "a", "v": "b", "u": "b"},
        "forgets a tensor": {"w": "a", "u": "b"},
        "swaps shards": {"w": "b", "v": "a"},
        "names a missing file": {"w": "a", "v": "c"},
        "names 401 files": {str(n): f"{n}" for n in range(401)},
    },
    Mutation(37, Shards, "weight_map", "unknown-format"): [["a"]],
    Mutation(37, File, "content", "duplicate-key"): {"key twice": b'{"weight_map": {"w": "a", "w": "b"}}'},
    Mutation(39, Safetensors, "data", tensors={"w": NAN}, warns=True): {"NaN": NAN.tobytes()},
    Mutation(41, NotAFile, "kind", "not-a-file"): [
        *("fifo", "directory", "socket", "link to a fifo", "/dev/zero")
    ],
    Mutation(41, File, "content", "empty-file"): [b""],
    Mutation(41, File, "content", "truncated pickle-malformed unknown-format"): [
        *(b"P", b"PK", b"PK\3\4", b"\x80", b"\x80\x02", b"{", b"\x93NUMPY")
    ],
    Mutation(41, Sparse, "start", "unknown-format truncated trailing-bytes"): {
        "zeros": b"",
        "zip": WHOLE,
        "legacy": Legacy().content,
        "pickle": b"\x80\x02}.",
        "safetensors": Safetensors().content,
        "index": b'{"weight_map": {',
    },
    Mutation(41, Sparse, "", "zip-directory"): {"ends as zip": Edits(start=WHOLE, end=WHOLE[-22:])},
    Mutation(41, Sparse, "start", "truncated"): {
        "header of safetensors": Safetensors({"w": entry((1 << 38,), (0, 1 << 40))}, b"").content
    },
}
