"""Hostile files in the legacy stream format and the legacy tar format."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
from collections.abc import Callable, Iterator
from typing import Any

import torch

from testing.checkpoints.assemble import GOOD, WEIGHT, LegacyBox, PlainBox, mapping, text
from testing.checkpoints.case import Case, table


def cases() -> Iterator[Case]:
    yield from _legacy()
    yield from _tars()


def _legacy() -> Iterator[Case]:
    """Case 30."""
    for make in (LegacyBox, PlainBox):
        yield make.one(0, "as it should be", expected={"tensors": GOOD})

    def pickled(value: bytes) -> bytes:
        return b"\x80\x02" + value + b"."

    cut_storage = {"0": WEIGHT.tobytes()[:-1]}
    # Attributes of the file, and the error code.
    edits: dict[str, tuple[dict[str, Any], str]] = {
        "magic number": ({"magic": pickled(b"\x8a\x01\x07")}, "legacy-header"),
        "magic text": ({"magic": pickled(text("x"))}, "trailing-bytes"),
        "protocol 1002": ({"version": pickled(b"M\xea\x03")}, "legacy-header"),
        "protocol a text": ({"version": pickled(text("1"))}, "legacy-header"),
        "no system": ({"system": pickled(b"N")}, "legacy-header"),
        "system without byte order": ({"system": pickled(b"}")}, "legacy-header"),
        "keys missing": ({"keys": []}, "missing-storage"),
        "keys twice": ({"keys": ["0", "0"]}, "missing-storage"),
        "more keys": ({"keys": ["0", "1"]}, "missing-storage"),
        "numel 3": ({"numel": 3}, "storage-size"),
        "numel -1": ({"numel": -1}, "storage-size"),
        "numel 2^62": ({"numel": 1 << 62}, "storage-size"),
        "storage cut": ({"storages": cut_storage}, "storage-size"),
        "more bytes": ({"tail": bytes(100)}, "trailing-bytes"),
    }
    for label, (attributes, code) in edits.items():
        box = LegacyBox()
        root = mapping(w=box.weight())
        vars(box).update(attributes)
        yield box.case(30, label, root, code)
    box = LegacyBox()
    whole = box.file(mapping(w=box.weight()))
    cuts = {str(cut): whole[:-cut] for cut in (1, 8, 15, 16, 17, 24, 40, 200)}
    yield from table(30, "legacy cut by", cuts, "truncated", "pickle-malformed")
    yield LegacyBox.one(30, "4 TB announced", "truncated", numel=1 << 40)


def tar(
    names: dict[str, str] | None = None,
    edit: Callable[[tarfile.TarInfo], object] = lambda info: None,
    form: int = tarfile.USTAR_FORMAT,
    without: str = "",
    storages: bytes | None = None,
    tensors: bytes | None = None,
) -> bytes:
    """Return torch 0.1's tar file with the valid weight."""
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
    """Case 31."""
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
    without = {name: tar(without=name) for name in ("sys_info", "pickle", "tensors", "storages")}
    yield from table(31, "tar without", without, "tar-entry")
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
