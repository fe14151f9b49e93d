"""Hostile safetensors files, shards, NumPy files and nearly empty files, and paths of other kinds."""

import io
import json
import os
import pickle
import socket
import struct
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from testing.checkpoints.assemble import GOOD, WEIGHT, LegacyBox, ZipBox, mapping
from testing.checkpoints.case import FileCase, table


def cases() -> Iterator[FileCase]:
    yield from _safetensors()
    yield from _shards()
    yield from _numpy()
    yield from _not_files()


def safetensors(header: Any, data: bytes = WEIGHT.tobytes(), length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def entry(shape: Any = (2, 2), offsets: Any = (0, 16), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def _safetensors() -> Iterator[FileCase]:
    """Cases 33 to 35 and 39."""
    good = {"w": entry()}
    yield FileCase(0, "safetensors as it should be", safetensors(good), tensors=GOOD)
    nan = np.full((2, 2), np.nan, "<f4")
    file = safetensors(good, nan.tobytes())
    yield FileCase(39, "safetensors NaN", file, tensors={"w": nan}, warns=True)
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
        "bytes after": (34, good, 17, "trailing-bytes"),
        "bytes missing": (34, good, 15, "truncated"),
        "backwards": (34, {"w": entry(offsets=(16, 0))}, 16, header),
        "more keys": (34, {"w": entry() | {"x": 1}}, 16, header),
        "metadata": (34, {"__metadata__": {"a": 1}, "w": entry()}, 16, header),
        "not JSON": (34, b"{'w': 1}", 0, header),
        "constant NaN": (34, b'{"w": NaN}', 0, header),
        "not UTF-8": (34, b'{"\xff": 1}', 0, header),
        "long number": (34, b'{"w":' + b"9" * 10_000 + b"}", 0, header),
        "1,000,000 brackets": (34, b'{"w":' + b"[" * 1_000_000, 16, header),
        "150,000 tensors": (34, b"{" + many + b"}", 0, header),
        "2^33 x 2^31": (35, {"w": entry((1 << 33, 1 << 31))}, 16, "tensor-bounds"),
        "0 x 2^60": (35, {"w": entry((0, 1 << 60), (0, 0))}, 0, "tensor-shape"),
        "65 dimensions": (35, {"w": entry((1,) * 65)}, 16, "tensor-shape"),
        "more rows": (35, {"w": entry((3, 2))}, 16, "tensor-bounds"),
        "fewer rows": (35, {"w": entry((1, 2))}, 16, "storage-size"),
        "size True": (35, {"w": entry((True, 4))}, 16, "tensor-shape"),
        "dtype F4": (35, {"w": entry(dtype="F4")}, 16, "unsupported-tensor"),
    }
    for label, (number, made, size, code) in headers.items():
        yield FileCase(number, f"safetensors {label}", safetensors(made, bytes(size)), (code,))


def _shards() -> Iterator[FileCase]:
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

    good = {"as they should be": write({"w": "a", "v": "b"})}
    yield from table(0, "shards", good, tensors={"w": WEIGHT, "v": WEIGHT})
    paths = ("../outside", "/etc/passwd", "x/../../outside", "a\0", "..\\outside", "a/b", "..", ".", "")
    outside = {repr(path): write({"w": path}) for path in paths}
    for link in ("../outside", "/etc/passwd", "..", "/dev/zero", "/proc/self/mem"):
        outside[f"link to {link}"] = write({"w": "link"}, link)
    outside["no texts"] = write({"w": 1})
    yield from table(36, "shards", outside, "shard-path")
    circle = {"link in circles": write({"w": "link"}, "link")}
    yield from table(36, "shards", circle, "shard-mismatch", "shard-path")
    maps = {
        "lacks a tensor": {"w": "a", "v": "b", "u": "b"},
        "forgets a tensor": {"w": "a", "u": "b"},
        "swaps shards": {"w": "b", "v": "a"},
        "names a missing file": {"w": "a", "v": "c"},
        "names 401 files": {str(n): f"{n}" for n in range(401)},
    }
    yield from table(37, "shards: index", {label: write(m) for label, m in maps.items()}, "shard-mismatch")
    yield from table(37, "shards:", {"no dictionary": write(["a"])}, "unknown-format")
    twice = b'{"weight_map": {"w": "a", "w": "b"}}'
    yield FileCase(37, "shards: key twice", twice, ("duplicate-key",))


def _numpy() -> Iterator[FileCase]:
    """Cases 19, 20 and 35 for NumPy arrays."""
    dumped = pickle.dumps({"w": WEIGHT}, 4)
    edits = {
        "more rows": (b"K\x02K\x02\x86", b"K\x03K\x02\x86"),
        "fewer rows": (b"K\x02K\x02\x86", b"K\x01K\x02\x86"),
        "no rows": (b"K\x02K\x02\x86", b"K\x02]\x94\x86"),
        "another byte order": (b"\x8c\x01<", b"\x8c\x01!"),
    }
    assert all(old in dumped for old, _ in edits.values())
    files = {label: dumped.replace(*edit) for label, edit in edits.items()}
    codes = ("tensor-bounds", "storage-size", "tensor-shape", "pickle-malformed")
    yield from table(20, "numpy pickle", files, *codes)
    data = b"C\x10" + WEIGHT.tobytes()
    without = pickle.dumps({"w": WEIGHT}, 3).replace(data, b"N")
    yield FileCase(20, "numpy pickle without data", without, ("pickle-malformed",))


def _not_files() -> Iterator[FileCase]:
    """Case 41."""

    def fifo(folder: Path) -> None:
        os.mkfifo(folder / "file")

    def directory(folder: Path) -> None:
        (folder / "file").mkdir()

    def bound(folder: Path) -> None:
        here = os.getcwd()
        # The path of a socket is limited to 107 bytes.
        os.chdir(folder)
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind("file")
        os.chdir(here)

    def link(folder: Path) -> None:
        os.mkfifo(folder / "fifo")
        (folder / "file").symlink_to("fifo")

    for create in (fifo, directory, bound, link):
        yield FileCase(41, create.__name__, create, ("not-a-file",))
    yield FileCase(41, "/dev/zero", lambda folder: Path("/dev/zero"), ("not-a-file",))
    yield FileCase(41, "empty", b"", ("empty-file",))

    def sparse(start: bytes, end: bytes = b"") -> Callable[[Path], None]:
        def create(folder: Path) -> None:
            with open(folder / "file", "wb") as file:
                file.write(start)
                file.truncate(1 << 40)
                file.seek(0, 2)
                file.write(end)

        return create

    zipped = ZipBox()
    whole = zipped.file(mapping(w=zipped.weight()))
    legacy = LegacyBox()
    files = {
        "of zeros": b"",
        "starts as zip": whole,
        "starts as legacy": legacy.file(mapping(w=legacy.weight())),
        "starts as pickle": b"\x80\x02}.",
        "starts as safetensors": safetensors({"w": entry()}),
        "starts as index": b'{"weight_map": {',
    }
    codes = ("unknown-format", "truncated", "trailing-bytes")
    yield from table(41, "sparse 1 TB", {label: sparse(start) for label, start in files.items()}, *codes)
    yield FileCase(41, "sparse 1 TB ends as zip", sparse(whole, whole[-22:]), ("zip-directory",))
    announced = safetensors({"w": entry((1 << 38,), (0, 1 << 40))}, b"")
    yield FileCase(41, "sparse 1 TB header of safetensors", sparse(announced), ("truncated",))
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:") as tar:
        link_info = tarfile.TarInfo("../tensors")
        link_info.type, link_info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link_info)
    yield FileCase(31, "tar with a link", raw.getvalue(), ("unknown-format",))
    yield FileCase(41, "one byte", b"P", ("unknown-format", "truncated"))
    for start in (b"PK", b"PK\3\4", b"\x80", b"\x80\x02", b"{", b"\x93NUMPY"):
        codes = ("truncated", "pickle-malformed", "unknown-format")
        yield FileCase(41, f"nothing but {start!r}", start, codes)
