"""Cases of the other containers, and of what is no file at all."""

from __future__ import annotations

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
import torch

from .assemble import WEIGHT, LegacyBox, PlainBox, ZipBox, integer, mapping, text, view
from .case import Case

GOOD = {"w": WEIGHT}


def cases() -> Iterator[Case]:
    yield from _legacy()
    yield from _tars()
    yield from _safetensors()
    yield from _shards()
    yield from _numpy()
    yield from _onnx()
    yield from _not_files()


def _legacy() -> Iterator[Case]:
    """30."""
    box = LegacyBox()
    body = mapping(w=box.weight())
    yield Case(0, "legacy as it should be", box.file(body), tensors=GOOD)
    plain = PlainBox()
    yield Case(0, "pickle as it should be", plain.file(mapping(w=plain.weight())), tensors=GOOD)
    edits: dict[str, tuple[Callable[[LegacyBox], object], tuple[str, ...]]] = {
        "magic number": (lambda b: _set(b, magic=b"\x80\x02\x8a\x01\x07."), ("legacy-header",)),
        "magic text": (
            lambda b: _set(b, magic=b"\x80\x02" + text("x") + b"."),
            ("trailing-bytes",),
        ),
        "protocol 1002": (lambda b: _set(b, version=b"\x80\x02M\xea\x03."), ("legacy-header",)),
        "protocol a text": (
            lambda b: _set(b, version=b"\x80\x02" + text("1") + b"."),
            ("legacy-header",),
        ),
        "no system": (lambda b: _set(b, system=b"\x80\x02N."), ("legacy-header",)),
        "system without byte order": (lambda b: _set(b, system=b"\x80\x02}."), ("legacy-header",)),
        "keys missing": (lambda b: _set(b, keys=[]), ("missing-storage",)),
        "keys twice": (lambda b: _set(b, keys=["0", "0"]), ("missing-storage",)),
        "more keys": (lambda b: _set(b, keys=["0", "1"]), ("missing-storage",)),
        "numel 3": (lambda b: _set(b, numel=3), ("storage-size",)),
        "numel -1": (lambda b: _set(b, numel=-1), ("storage-size",)),
        "numel 2^62": (lambda b: _set(b, numel=1 << 62), ("storage-size",)),
        "storage cut": (
            lambda b: b.storages.update({"0": WEIGHT.tobytes()[:-1]}),
            ("storage-size",),
        ),
        "more bytes": (lambda b: _set(b, tail=bytes(100)), ("trailing-bytes",)),
    }
    for label, (edit, codes) in edits.items():
        box = LegacyBox()
        body = mapping(w=box.weight())
        edit(box)
        yield Case(30, f"legacy {label}", box.file(body), codes)
    for cut in (1, 8, 15, 16, 17, 24, 40, 200):
        box = LegacyBox()
        file = box.file(mapping(w=box.weight()))[:-cut]
        yield Case(30, f"legacy cut by {cut}", file, ("truncated", "pickle-malformed"))
    box = LegacyBox()
    file = box.file(mapping(w=view(box.storage(numel=1 << 40), *_SHAPE)))
    yield Case(30, "legacy 4 TB announced", file, ("truncated",))


_SHAPE = (integer(0), b"(K\x02K\x02t", b"(K\x02K\x01t")


def _set(box: LegacyBox, **attributes: Any) -> None:
    for name, value in attributes.items():
        setattr(box, name, value)


def tar(
    names: dict[str, str] | None = None,
    edit: Callable[[tarfile.TarInfo], object] = lambda info: None,
    form: int = tarfile.USTAR_FORMAT,
    without: str = "",
    storages: bytes | None = None,
    tensors: bytes | None = None,
) -> bytes:
    """The tar of torch 0.1 that holds the good weight."""
    storage = io.BytesIO()
    pickle.dump(1, storage, 2)
    pickle.dump((7, "cpu", torch.FloatStorage), storage, 2)
    storage.write(struct.pack("<q", 4) + WEIGHT.tobytes())
    pickle.dump([], storage, 2)
    tensor = io.BytesIO()
    pickle.dump(1, tensor, 2)
    pickle.dump((3, 7, torch.FloatTensor), tensor, 2)
    tensor.write(struct.pack("<ii5q", 2, 0, 2, 2, 2, 1, 0))
    members = {
        "sys_info": pickle.dumps({"little_endian": True}, 2),
        "pickle": b"\x80\x02" + mapping(w=text("3") + b"Q") + b".",
        "tensors": tensor.getvalue() if tensors is None else tensors,
        "storages": storage.getvalue() if storages is None else storages,
    }
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:", format=form) as file:
        for name, data in members.items():
            if name == without:
                continue
            info = tarfile.TarInfo((names or {}).get(name, name))
            info.size = len(data)
            edit(info)
            file.addfile(info, io.BytesIO(data))
    return raw.getvalue()


def _tars() -> Iterator[Case]:
    """31."""
    yield Case(0, "tar as it should be", tar(), tensors=GOOD)
    for label, kind in {
        "a symbolic link": tarfile.SYMTYPE,
        "a hard link": tarfile.LNKTYPE,
        "a FIFO": tarfile.FIFOTYPE,
        "a device": tarfile.CHRTYPE,
        "a directory": tarfile.DIRTYPE,
        "sparse": tarfile.GNUTYPE_SPARSE,
    }.items():

        def as_kind(info: tarfile.TarInfo, kind: bytes = kind) -> None:
            if info.name == "tensors":
                info.type, info.linkname = kind, "storages"

        yield Case(31, f"tar tensors is {label}", tar(edit=as_kind), ("tar-entry",))
    for bad in ("../tensors", "/tensors", "x/tensors", "storages", "x" * 150):
        file = tar(names={"tensors": bad}, form=tarfile.GNU_FORMAT)
        yield Case(31, f"tar tensors named {bad[:12]!r}", file, ("tar-entry",))

    def path(info: tarfile.TarInfo) -> None:
        info.pax_headers = {"path": "tensors"}

    file = tar(names={"tensors": "other"}, form=tarfile.PAX_FORMAT, edit=path)
    yield Case(31, "tar pax header sets a path", file, ("tar-entry",))
    for member in ("sys_info", "pickle", "tensors", "storages"):
        yield Case(31, f"tar without {member}", tar(without=member), ("tar-entry",))
    good = tar()
    broken = good[:148] + b"0000000\0" + good[156:]
    yield Case(31, "tar checksum", broken, ("tar-entry",))
    yield Case(31, "tar bytes after", good + b"x", ("trailing-bytes",))
    yield Case(31, "tar cut", good[:1500], ("truncated", "trailing-bytes"))
    counts = b"\x80\x02\x8a\x05\xff\xff\xff\xff\x7f."
    codes = ("pickle-malformed",)
    yield Case(31, "tar 2^39 storages", tar(storages=counts), codes)
    yield Case(31, "tar 2^39 tensors", tar(tensors=counts), codes)
    head = b"\x80\x02K\x01.\x80\x02K\x03K\x07N\x87."
    for label, numbers in {
        "offset 1": struct.pack("<ii5q", 2, 0, 2, 2, 2, 1, 1),
        "stride -1": struct.pack("<ii5q", 2, 0, 2, 2, -2, 1, 3),
        "size 3": struct.pack("<ii5q", 2, 0, 3, 2, 2, 1, 0),
        "2^31 dimensions": struct.pack("<ii", (1 << 31) - 1, 0),
        "-1 dimensions": struct.pack("<ii", -1, 0),
    }.items():
        codes = ("tensor-bounds", "tensor-shape")
        yield Case(31, f"tar {label}", tar(tensors=head + numbers), codes)


def safetensors(header: Any, data: bytes = WEIGHT.tobytes(), length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def entry(shape: Any = (2, 2), offsets: Any = (0, 16), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def _safetensors() -> Iterator[Case]:
    """33 to 35. More of them: test_safetensors.py."""
    good = {"w": entry()}
    yield Case(0, "safetensors as it should be", safetensors(good), tensors=GOOD)
    twice = json.dumps(good)[:-1].encode()
    for label, second in {"same": b"F32", "other dtype": b"I32"}.items():
        raw = twice + b"," + json.dumps(good)[1:].encode().replace(b"F32", second)
        yield Case(33, f"safetensors key twice, {label}", safetensors(raw), ("duplicate-key",))
    nan = np.full((2, 2), np.nan, "<f4")
    yield Case(
        39, "safetensors NaN", safetensors(good, nan.tobytes()), tensors={"w": nan}, warns=True
    )
    for length in (1 << 63, (1 << 64) - 1, 1 << 40, 200_000_000):
        file = safetensors(good, length=length)
        yield Case(34, f"safetensors header of {length}", file, ("unknown-format",))
    layouts: dict[str, tuple[dict[str, Any], int]] = {
        "overlap": ({"w": entry(), "v": entry(offsets=(8, 24))}, 24),
        "same bytes": ({"w": entry(), "v": entry()}, 16),
        "hole": ({"w": entry(), "v": entry(offsets=(20, 36))}, 36),
        "hole before": ({"w": entry(offsets=(4, 20))}, 20),
        "bytes after": (good, 17),
        "bytes missing": (good, 15),
    }
    codes = ("safetensors-layout", "trailing-bytes", "truncated")
    for label, (header, size) in layouts.items():
        yield Case(34, f"safetensors {label}", safetensors(header, bytes(size)), codes)
    for label, shape in {
        "2^33 x 2^31": (1 << 33, 1 << 31),
        "0 x 2^60": (0, 1 << 60),
        "2^64": (1 << 64,),
        "65 dimensions": (1,) * 65,
    }.items():
        offsets = (0, 0) if 0 in shape else (0, 16)
        file = safetensors({"w": entry(shape, offsets)}, bytes(offsets[1]))
        codes = ("tensor-shape", "tensor-bounds", "storage-size")
        yield Case(35, f"safetensors {label}", file, codes)
    deep = b'{"w":' + b"[" * 1_000_000
    yield Case(34, "safetensors 1,000,000 brackets", safetensors(deep), ("safetensors-header",))
    many = b"{" + b",".join(
        b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % n for n in range(150_000)
    )
    yield Case(
        34, "safetensors 150,000 tensors", safetensors(many + b"}", b""), ("safetensors-header",)
    )


def _shards() -> Iterator[Case]:
    """36 and 37."""

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
    for path in ("../outside", "/etc/passwd", "..", "x/../../outside", "a\0", "..\\outside", ""):
        yield Case(36, f"shards {path!r}", write({"w": path}), ("shard-path",))
    for link in ("../outside", "/etc/passwd", "..", "/dev/zero", "/proc/self/mem"):
        yield Case(36, f"shards link to {link}", write({"w": "link"}, link), ("shard-path",))
    yield Case(
        36, "shards link in circles", write({"w": "link"}, "link"), ("shard-mismatch", "shard-path")
    )
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
    """19, 20 and 35 for arrays."""
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
    codes = ("numpy-header", "tensor-bounds", "storage-size")
    for label, (old, new) in edits.items():
        yield Case(20, f"npy {label}", good.replace(old, new), codes)
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
    """8, 10, 19 and 26 in ONNX's wire format."""

    def field(number: int, value: bytes | int) -> bytes:
        if isinstance(value, int):
            return _varint(number << 3) + _varint(value)
        return _varint(number << 3 | 2) + _varint(len(value)) + value

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
    codes = ("tensor-bounds", "tensor-shape", "storage-size")
    for label, made in bad.items():
        yield Case(19, f"ONNX {label}", head + field(7, field(5, made)), codes)
    wrong = {
        "length 2^60": head + b"\x3a" + _varint(1 << 60),
        "number without end": head + b"\x3a" + b"\xff" * 20,
        "field 0": head + b"\x02\x00",
        "wire type 3": head + b"\x0b",
        "no graph": head,
        "two graphs": head + field(7, b"") * 2,
        "cut": (head + field(7, field(5, tensor)))[:-3],
        "name is no text": head + field(7, field(5, tensor.replace(b"\x42\x01w", b"\x42\x01\xff"))),
    }
    for label, file in wrong.items():
        yield Case(8, f"ONNX {label}", file, ("onnx-malformed",))
    many = head + field(7, field(1, b"") * 1_000_000)
    yield Case(9, "ONNX 1,000,000 nodes", many, ("onnx-malformed",))
    graph = b""
    for _ in range(200):
        graph = field(1, field(4, b"If") + field(5, field(1, b"g") + field(6, graph)))
    yield Case(10, "ONNX graphs 200 deep", head + field(7, graph), ("onnx-malformed",))


def _varint(value: int) -> bytes:
    raw = bytearray()
    while value > 0x7F:
        raw.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*raw, value])


def _not_files() -> Iterator[Case]:
    """41."""

    def fifo(folder: Path) -> None:
        os.mkfifo(folder / "file")

    def directory(folder: Path) -> None:
        (folder / "file").mkdir()

    def bound(folder: Path) -> None:
        here = os.getcwd()
        os.chdir(folder)  # the path of a socket may have 107 bytes
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind("file")
        os.chdir(here)

    def link(folder: Path) -> None:
        os.mkfifo(folder / "fifo")
        (folder / "file").symlink_to("fifo")

    for create in (fifo, directory, bound, link):
        yield Case(41, create.__name__, create, ("not-a-file",))
    yield Case(41, "/dev/zero", lambda folder: Path("/dev/zero"), ("not-a-file",))
    yield Case(41, "empty", b"", ("empty-file",))

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
        "starts as ONNX": b"\x08\x08\x12\x01x",
        "starts as npy": b"\x93NUMPY\x01\x00",
        "starts as tar": tar()[:512],
    }
    codes = (
        *("unknown-format", "truncated", "trailing-bytes", "numpy-header", "onnx-malformed"),
        *("tar-entry",),
    )
    for label, start in files.items():
        yield Case(41, f"sparse 1 TB {label}", sparse(start), codes)
    yield Case(41, "sparse 1 TB ends as zip", sparse(whole, whole[-22:]), ("zip-directory",))
    huge = {"w": entry((1 << 38,), (0, 1 << 40))}
    announced = safetensors(huge, b"")
    yield Case(41, "sparse 1 TB header of safetensors", sparse(announced), ("truncated",))
    yield Case(41, "one byte", b"P", ("unknown-format", "truncated"))
    for start in (b"PK", b"PK\3\4", b"\x80", b"\x80\x02", b"{", b"\x93NUMPY", b"\x08\x08\x12"):
        codes = (
            "truncated",
            "pickle-malformed",
            "unknown-format",
            "numpy-header",
            "onnx-malformed",
        )
        yield Case(41, f"nothing but {start!r}", start, codes)
