"""Hostile safetensors files, shards, NumPy files and ONNX files."""

from __future__ import annotations

import io
import json
import pickle
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from testing.checkpoints.assemble import GOOD, WEIGHT
from testing.checkpoints.case import Case, table
from tools.fuzz.protobuf import varint


def cases() -> Iterator[Case]:
    yield from _safetensors()
    yield from _shards()
    yield from _numpy()
    yield from _onnx()


def safetensors(header: Any, data: bytes = WEIGHT.tobytes(), length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def entry(shape: Any = (2, 2), offsets: Any = (0, 16), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def field(number: int, value: bytes | int) -> bytes:
    """Return a field of a protobuf message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def _safetensors() -> Iterator[Case]:
    """Cases 33 to 35 and 39."""
    good = {"w": entry()}
    yield Case(0, "safetensors as it should be", safetensors(good), tensors=GOOD)
    nan = np.full((2, 2), np.nan, "<f4")
    file = safetensors(good, nan.tobytes())
    yield Case(39, "safetensors NaN", file, tensors={"w": nan}, warns=True)
    once = json.dumps(good).encode()
    other = once.replace(b"F32", b"I32")
    inner = once.replace(b'"shape"', b'"dtype": "I32", "shape"')
    twice = {
        "same": once[:-1] + b"," + once[1:],
        "other dtype": once[:-1] + b"," + other[1:],
        "within an entry": inner,
    }
    files = {label: safetensors(header) for label, header in twice.items()}
    yield from table(33, "safetensors key twice,", files, "duplicate-key")
    lengths = (1 << 63, (1 << 64) - 1, 1 << 40, 200_000_000)
    files = {str(length): safetensors(good, length=length) for length in lengths}
    yield from table(34, "safetensors header of", files, "unknown-format")
    layout, header = "safetensors-layout", "safetensors-header"
    many = b",".join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % n for n in range(150_000))
    headers: dict[str, tuple[int, Any, int, str]] = {
        "overlap": (34, {"w": entry(), "v": entry(offsets=(8, 24))}, 24, layout),
        "same bytes": (34, {"w": entry(), "v": entry()}, 16, layout),
        "hole": (34, {"w": entry(), "v": entry(offsets=(20, 36))}, 36, layout),
        "hole before": (34, {"w": entry(offsets=(4, 20))}, 20, layout),
        "bytes after": (34, good, 17, "trailing-bytes"),
        "bytes missing": (34, good, 15, "truncated"),
        "backwards": (34, {"w": entry(offsets=(16, 0))}, 16, header),
        "no offsets": (34, {"w": {"dtype": "F32", "shape": [2]}}, 8, header),
        "more keys": (34, {"w": entry() | {"x": 1}}, 16, header),
        "metadata": (34, {"__metadata__": {"a": 1}, "w": entry()}, 16, header),
        "list": (34, [1, 2], 0, "unknown-format"),
        "not JSON": (34, b"{'w': 1}", 0, header),
        "constant NaN": (34, b'{"w": NaN}', 0, header),
        "not UTF-8": (34, b'{"\xff": 1}', 0, header),
        "long number": (34, b'{"w":' + b"9" * 10_000 + b"}", 0, header),
        "1,000,000 brackets": (34, b'{"w":' + b"[" * 1_000_000, 16, header),
        "150,000 tensors": (34, b"{" + many + b"}", 0, header),
        "2^33 x 2^31": (35, {"w": entry((1 << 33, 1 << 31))}, 16, "tensor-bounds"),
        "0 x 2^60": (35, {"w": entry((0, 1 << 60), (0, 0))}, 0, "tensor-shape"),
        "2^64": (35, {"w": entry((1 << 64,))}, 16, "tensor-shape"),
        "65 dimensions": (35, {"w": entry((1,) * 65)}, 16, "tensor-shape"),
        "more rows": (35, {"w": entry((3, 2))}, 16, "tensor-bounds"),
        "fewer rows": (35, {"w": entry((1, 2))}, 16, "storage-size"),
        "size -2": (35, {"w": entry((-2, 2))}, 16, "tensor-shape"),
        "size True": (35, {"w": entry((True, 4))}, 16, "tensor-shape"),
        "size 2.0": (35, {"w": entry((2.0, 2))}, 16, header),
        "dtype F4": (35, {"w": entry(dtype="F4")}, 16, "unsupported-tensor"),
    }
    for label, (number, made, size, code) in headers.items():
        yield Case(number, f"safetensors {label}", safetensors(made, bytes(size)), (code,))


def _shards() -> Iterator[Case]:
    """Cases 36 and 37."""

    def write(weight_map: Any, link: str | None = None) -> Callable[[Path], Path]:
        def create(folder: Path) -> Path:
            inside = folder / "in"
            inside.mkdir()
            (folder / "outside").write_bytes(safetensors({"w": entry()}))
            (inside / "a").write_bytes(safetensors({"w": entry()}))
            (inside / "b").write_bytes(safetensors({"v": entry()}))
            if link is not None:
                (inside / "link").symlink_to(link)
            (inside / "index.json").write_text(json.dumps({"weight_map": weight_map}))
            return inside / "index.json"

        return create

    good = {"w": "a", "v": "b"}
    yield Case(0, "shards as they should be", write(good), tensors={"w": WEIGHT, "v": WEIGHT})
    for path in (
        "../outside",
        "/etc/passwd",
        "..",
        "x/../../outside",
        "a\0",
        "..\\outside",
        "",
        "a/b",
        "a\\b",
    ):
        yield Case(36, f"shards {path!r}", write({"w": path}), ("shard-path",))
    for link in ("../outside", "/etc/passwd", "..", "/dev/zero", "/proc/self/mem"):
        yield Case(36, f"shards link to {link}", write({"w": "link"}, link), ("shard-path",))
    yield Case(36, "shards link in circles", write({"w": "link"}, "link"), ("shard-mismatch", "shard-path"))
    yield Case(36, "shards directory", write({"w": "."}), ("shard-path",))
    for label, weight_map in {
        "lacks a tensor": {"w": "a", "v": "b", "u": "b"},
        "forgets a tensor": {"w": "a"} | {"u": "b"},
        "swaps shards": {"w": "b", "v": "a"},
        "names a missing file": {"w": "a", "v": "c"},
    }.items():
        yield Case(37, f"shards: index {label}", write(weight_map), ("shard-mismatch",))
    yield Case(37, "shards: no texts", write({"w": 1}), ("shard-path",))
    yield Case(37, "shards: no dictionary", write(["a"]), ("unknown-format",))
    twice = b'{"weight_map": {"w": "a", "w": "b"}}'
    yield Case(37, "shards: key twice", twice, ("duplicate-key",))


def _numpy() -> Iterator[Case]:
    """Cases 19, 20 and 35 for NumPy arrays."""
    raw = io.BytesIO()
    np.save(raw, WEIGHT)
    good = raw.getvalue()
    yield Case(0, "npy as it should be", good, tensors={"": WEIGHT})
    edits = {
        "more rows": (b"(2, 2)", b"(3, 2)"),
        "fewer rows": (b"(2, 2)", b"(1, 2)"),
        "-1": (b"(2, 2)", b"(-1,2)"),
        "a call": (b"(2, 2)", b"exit()"),
        "no order": (b"False", b"Maybe"),
        "version 9": (b"NUMPY\x01", b"NUMPY\x09"),
        "code after": (b"}", b";"),
    }
    files = {label: good.replace(*edit) for label, edit in edits.items()}
    yield from table(20, "npy", files, "numpy-header", "tensor-bounds", "storage-size")
    yield Case(20, "npy cut", good[:-1], ("tensor-bounds", "storage-size"))
    yield Case(20, "npy bytes after", good + b"x", ("storage-size",))
    yield Case(8, "npy header of 4 GiB", b"\x93NUMPY\x02\x00\xff\xff\xff\xff", ("numpy-header",))
    dumped = pickle.dumps({"w": WEIGHT}, 4)
    for label, (old, new) in {
        "more rows": (b"K\x02K\x02\x86", b"K\x03K\x02\x86"),
        "fewer rows": (b"K\x02K\x02\x86", b"K\x01K\x02\x86"),
        "no rows": (b"K\x02K\x02\x86", b"K\x02]\x94\x86"),
        "another byte order": (b"\x8c\x01<", b"\x8c\x01!"),
    }.items():
        assert old in dumped
        codes = ("tensor-bounds", "storage-size", "tensor-shape", "pickle-malformed")
        yield Case(20, f"numpy pickle {label}", dumped.replace(old, new), codes)


def _onnx() -> Iterator[Case]:
    """Cases 8, 10, 19 and 26 in ONNX's wire format."""
    head = field(1, 8) + field(2, b"x")
    dims = field(1, 2) * 2
    data = WEIGHT.tobytes()
    tensor = dims + field(2, 1) + field(8, b"w") + field(9, data)
    yield Case(0, "ONNX as it should be", head + field(7, field(5, tensor)), tensors=GOOD)
    twice = field(5, tensor) * 2
    yield Case(11, "ONNX name twice", head + field(7, twice), ("duplicate-name",))
    bad = {
        "bytes cut": tensor[:-1].replace(field(9, data)[:2], b"\x4a\x0f"),
        "more rows": tensor.replace(dims, field(1, 3) + field(1, 2)),
        "size -1": tensor.replace(dims, field(1, (1 << 64) - 1) + field(1, 2)),
        "size 2^62": tensor.replace(dims, field(1, 1 << 62)),
    }
    files = {label: head + field(7, field(5, made)) for label, made in bad.items()}
    yield from table(19, "ONNX", files, "tensor-bounds", "tensor-shape", "storage-size")
    wrong = {
        "length 2^60": head + b"\x3a" + varint(1 << 60),
        "number without end": head + b"\x3a" + b"\xff" * 20,
        "field 0": head + b"\x02\x00",
        "wire type 3": head + b"\x0b",
        "no graph": head,
        "two graphs": head + field(7, b"") * 2,
        "cut": (head + field(7, field(5, tensor)))[:-3],
        "name is no text": head + field(7, field(5, tensor.replace(b"\x42\x01w", b"\x42\x01\xff"))),
    }
    yield from table(8, "ONNX", wrong, "onnx-malformed")
    many = head + field(7, field(1, b"") * 1_000_000)
    yield Case(9, "ONNX 1,000,000 nodes", many, ("onnx-malformed",))
    graph = b""
    for _ in range(200):
        graph = field(1, field(4, b"If") + field(5, field(1, b"g") + field(6, graph)))
    yield Case(10, "ONNX graphs 200 deep", head + field(7, graph), ("onnx-malformed",))
