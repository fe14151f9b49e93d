"""Paths that are not regular files, and almost empty files."""

from __future__ import annotations

import io
import os
import socket
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

from testing.checkpoints.assemble import LegacyBox, ZipBox, mapping
from testing.checkpoints.case import FileCase, table
from testing.hostile.formats import entry, safetensors


def cases() -> Iterator[FileCase]:
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
        "starts as npy": b"\x93NUMPY\x01\x00",
    }
    codes = ("unknown-format", "truncated", "trailing-bytes", "numpy-header")
    yield from table(41, "sparse 1 TB", {label: sparse(start) for label, start in files.items()}, *codes)
    yield FileCase(41, "sparse 1 TB ends as zip", sparse(whole, whole[-22:]), ("zip-directory",))
    huge = {"w": entry((1 << 38,), (0, 1 << 40))}
    announced = safetensors(huge, b"")
    yield FileCase(41, "sparse 1 TB header of safetensors", sparse(announced), ("truncated",))
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:") as tar:
        link_info = tarfile.TarInfo("../tensors")
        link_info.type, link_info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link_info)
    yield FileCase(31, "tar with a link", raw.getvalue(), ("unknown-format",))
    yield FileCase(41, "one byte", b"P", ("unknown-format", "truncated"))
    for start in (b"PK", b"PK\3\4", b"\x80", b"\x80\x02", b"{", b"\x93NUMPY"):
        codes = ("truncated", "pickle-malformed", "unknown-format", "numpy-header")
        yield FileCase(41, f"nothing but {start!r}", start, codes)
