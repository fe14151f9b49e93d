"""A valid file of each format that holds tensors, part by part."""

import contextlib
import json
import os
import socket
import struct
import zipfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from testing.hostile.opcodes import LOAD, WEIGHT, Storage, Weight, binary, call, encode
from testing.hostile.zip_archive import EndRecord, Member, archive, end_record


class File:
    """A valid file, whose attributes are its parts."""

    label = "file"
    content = b""

    def create(self, folder: Path) -> Path:
        """Write the file into an empty folder; return the path to open."""
        path = folder / "file"
        path.write_bytes(self.content)
        return path


@dataclass(eq=False)
class Archive(File):
    """A zip archive of members."""

    label = "zip"
    # Part -> name of the member that holds it; a part that is None is missing.
    names: ClassVar[tuple[tuple[str, str], ...]] = ()

    before: bytes = b""
    end: EndRecord = end_record

    @cached_property
    def members(self) -> list[Member]:
        parts = [(name, getattr(self, part)) for part, name in self.names]
        return [Member(name, _raw(part)) for name, part in parts if part is not None]

    @cached_property
    def content(self) -> bytes:
        return archive(self.members, before=self.before, end=self.end)


def _raw(part: Any) -> bytes:
    """Return the bytes of a part, which may be a JSON value."""
    return part if isinstance(part, bytes) else json.dumps(part).encode()


@dataclass(eq=False)
class Pickled(File):
    """A pickle, and the storages that it mentions."""

    root: Any = field(default_factory=lambda: {"w": Weight()})
    head: bytes = b"\x80\x02"
    stop: bytes = b"."
    storages: dict[str, bytes] = field(default_factory=dict)
    # Bytes of an element of a storage.
    width: int = 4

    def storage(self, storage: Storage) -> Any:
        """Store the bytes of a storage, and return the value that refers to it."""
        if storage.data is not None:
            self.storages[storage.key] = storage.data
        return storage.persistent_id()

    def encoded(self, value: Any) -> bytes:
        """Return the pickle of a value."""
        return self.head + encode(value, self.storage) + self.stop

    @cached_property
    def content(self) -> bytes:
        return self.encoded(self.root)


@dataclass(eq=False)
class Zip(Pickled, Archive):
    """The format of torch.save."""

    label = "zip"
    byteorder: bytes = b"little"

    @cached_property
    def members(self) -> list[Member]:
        start = {"data.pkl": self.encoded(self.root), "byteorder": self.byteorder}
        storages = {f"data/{key}": raw for key, raw in self.storages.items()}
        return [Member(f"m/{name}", raw) for name, raw in (start | storages | {"version": b"3\n"}).items()]

    content = Archive.content


@dataclass(eq=False)
class Script(Zip):
    """The format of torch.jit.save."""

    label = "TorchScript"
    constants: Any = b")"

    @cached_property
    def members(self) -> list[Member]:
        code = Member("m/code/__torch__.py", b"import os; os.system('touch PWNED')" * 50, method=8)
        return [*super().members, code, Member("m/constants.pkl", _two(self.constants))]


@dataclass(eq=False)
class Legacy(Pickled):
    """The format of torch.save before 1.6."""

    label = "legacy"
    magic: bytes = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
    version: Any = b"M\xe9\x03"
    system: Any = b"}(X\r\0\0\0little_endian\x88X\x10\0\0\0protocol_versionM\xe9\x03u"
    # None for the right value, or the opcodes of the list of keys.
    keys: bytes | list[str] | None = None
    numel: int | None = None
    tail: bytes = b""

    @cached_property
    def content(self) -> bytes:
        start = [self.magic, *map(_two, (self.version, self.system)), self.encoded(self.root)]
        keys = list(self.storages) if self.keys is None else self.keys
        if isinstance(keys, bytes):
            return b"".join([*start, _two(keys)])
        start.append(_two([b"](", *keys, b"e"]))
        for key in keys:
            raw = self.storages[key]
            count = len(raw) // self.width if self.numel is None else self.numel
            start += [struct.pack("<q", count), raw]
        return b"".join([*start, self.tail])


def _two(value: Any) -> bytes:
    """Return a pickle of protocol 2."""
    return Pickled().encoded(value)


@dataclass(eq=False)
class Plain(Pickled):
    """The format of pickle.dump: each storage consists of the bytes of a whole legacy file."""

    label = "pickle"

    def storage(self, storage: Storage) -> Any:
        return load(storage)


TORCH = (Zip, Script, Legacy, Plain)


def load(storage: Any) -> Any:
    """Return the call that loads a storage from the bytes of a legacy file, or from those bytes."""
    if isinstance(storage, Storage):
        held = {} if storage.data is None else {storage.key: storage.data}
        storage = Legacy(root=storage.persistent_id(), storages=held).content
    return call(LOAD, binary(storage))


@dataclass(eq=False)
class Safetensors(File):
    """A header, and the data; `length` is None for the right length of the header."""

    label = "safetensors"
    header: Any = field(default_factory=lambda: {"w": entry()})
    data: bytes = WEIGHT.tobytes()
    length: int | None = None

    @cached_property
    def content(self) -> bytes:
        raw = _raw(self.header)
        return struct.pack("<Q", len(raw) if self.length is None else self.length) + raw + self.data


def entry(shape: Any = (2, 2), offsets: Any = (0, 16), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@dataclass(eq=False)
class Shards(File):
    """Two shards and their index, a file outside of their folder, and a link."""

    label = "shards"
    weight_map: Any = field(default_factory=lambda: {"w": "a", "v": "b"})
    files: dict[str, bytes] = field(default_factory=lambda: SHARDS)
    link: str | None = None

    def create(self, folder: Path) -> Path:
        inside = folder / "in"
        inside.mkdir()
        for name, raw in self.files.items():
            (inside / name).write_bytes(raw)
        if self.link is not None:
            (inside / "link").symlink_to(self.link)
        (inside / "index.json").write_text(json.dumps({"weight_map": self.weight_map}))
        return inside / "index.json"


SHARDS = {
    file: Safetensors({name: entry()}).content
    for file, name in {"../outside": "w", "a": "w", "b": "v"}.items()
}


class Sparse(File):
    """A file of 1 TB, of which only a start and an end are written."""

    label = "sparse 1 TB"
    start = end = b""

    def create(self, folder: Path) -> Path:
        path = folder / "file"
        path.write_bytes(self.start)
        os.truncate(path, 1 << 40)
        with path.open("ab") as file:
            file.write(self.end)
        return path


class NotAFile(File):
    """A path of some other kind than a regular file."""

    label = "path"
    kind = "directory"

    def create(self, folder: Path) -> Path:
        path = folder / "file"
        match self.kind:
            case "directory":
                path.mkdir()
            case "fifo":
                os.mkfifo(path)
            case "link to a fifo":
                os.mkfifo(folder / "fifo")
                path.symlink_to("fifo")
            case "socket":
                # The path of a socket is limited to 107 bytes.
                with contextlib.chdir(folder), socket.socket(socket.AF_UNIX) as opened:
                    opened.bind("file")
            case device:
                return Path(device)
        return path


with zipfile.ZipFile(Path(__file__).with_name("multiply.pt2")) as opened:
    MULTIPLY = {name.partition("/")[2]: opened.read(name) for name in opened.namelist()}
"""The entries of x * w, exported by torch 2.13."""


def _document() -> Any:
    guards = ["__import__('os').system('touch PWNED')"]
    return json.loads(MULTIPLY["models/model.json"]) | {"guards_code": guards}


def _config() -> Any:
    return json.loads(MULTIPLY["data/weights/model_weights_config.json"])


@dataclass(eq=False)
class Program(Archive):
    """A program of torch 2.9 and later."""

    label = "pt2"
    # As in the other archives, the third member holds the weight.
    names = (
        ("document", "m/models/model.json"),
        ("byteorder", "m/byteorder"),
        ("weight", "m/data/weights/weight_0"),
        ("weights", "m/data/weights/model_weights_config.json"),
        ("constants", "m/data/constants/model_constants_config.json"),
        ("archive_format", "m/archive_format"),
        ("archive_version", "m/archive_version"),
    )

    document: Any = field(default_factory=_document)
    byteorder: bytes = b"little"
    weight: bytes = WEIGHT.tobytes()
    weights: Any = field(default_factory=_config)
    constants: Any = field(default_factory=lambda: {"config": {}})
    archive_format: bytes = b"pt2"
    archive_version: bytes = b"0"
    # The files of torch.save that older versions have.
    tensors: bytes = field(default_factory=lambda: Zip().content)
    no_tensors: bytes = field(default_factory=lambda: Zip(root={}).content)


class FlatProgram(Program):
    """A program of torch 2.6 and 2.7."""

    label = "pt2 flat"
    names = (
        ("document", "serialized_exported_program.json"),
        ("no_tensors", "serialized_constants.pt"),
        ("tensors", "serialized_state_dict.pt"),
    )


class FolderProgram(Program):
    """A program of torch 2.8."""

    label = "pt2 folder"
    names = (
        ("document", "m/models/model.json"),
        ("no_tensors", "m/data/constants/model.pt"),
        ("tensors", "m/data/weights/model.pt"),
        ("archive_format", "m/archive_format"),
        ("archive_version", "m/archive_version"),
    )
