"""Hostile files in the legacy stream format and the legacy tar format."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
from collections.abc import Callable, Iterator
from typing import Any

import torch

from tests.support.checkpoints.assemble import (
    WEIGHT,
    LegacyBox,
    PlainBox,
    integer,
    mapping,
    text,
    view,
)
from tests.support.checkpoints.case import Case

GOOD = {"w": WEIGHT}
_SHAPE = (integer(0), b"(K\x02K\x02t", b"(K\x02K\x01t")


def cases() -> Iterator[Case]:
    yield from _legacy()
    yield from _tars()


def _legacy() -> Iterator[Case]:
    """Case 30."""
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
