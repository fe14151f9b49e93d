"""Build pickles and containers byte by byte, so that any byte can be made wrong."""

import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from testing.checkpoints.case import FileCase

# The one valid weight of every file.
WEIGHT = np.array([[1.5, -2.0], [0.25, 3e30]], "<f4")
GOOD = {"w": WEIGHT}

# -- opcodes -------------------------------------------------------------------------------------


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def integer(value: int) -> bytes:
    if 0 <= value < 256:
        return b"K" + bytes([value])
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def sequence(*values: bytes) -> bytes:
    """Return the opcodes of a tuple."""
    return b"(" + b"".join(values) + b"t"


def integers(*values: int) -> bytes:
    return sequence(*map(integer, values))


def call(function: bytes, *args: bytes) -> bytes:
    return function + sequence(*args) + b"R"


def mapping(**items: bytes) -> bytes:
    return pairs(items.items())


def pairs(items: object) -> bytes:
    return b"}(" + b"".join(text(k) + v for k, v in items) + b"u"  # type: ignore[attr-defined]


ORDERED = call(name("collections", "OrderedDict"))
REBUILD = name("torch._utils", "_rebuild_tensor_v2")
SYSTEM = call(name("posix", "system"), text("touch PWNED"))
# Offset, size and strides of the weight.
GEOMETRY = (integer(0), integers(2, 2), integers(2, 1))


def view(storage: bytes, offset: bytes, size: bytes, stride: bytes, *more: bytes) -> bytes:
    return call(REBUILD, storage, offset, size, stride, b"\x89", ORDERED, *more)


# -- zip -----------------------------------------------------------------------------------------


@dataclass
class ZipMember:
    """One entry of an archive. Fields that are None are computed from the data."""

    name: str
    data: bytes
    method: int = 0
    flags: int = 0x800
    crc: int | None = None
    size: int | None = None
    compressed: int | None = None
    extra: bytes = b""
    after: bytes = b""
    # Fields in which the local header differs from the directory.
    local: dict[str, object] = field(default_factory=dict)
    # The offset in the directory.
    offset: int | None = None
    central_extra: bytes = b""


def archive(
    members: list[ZipMember], *, before: bytes = b"", end: Callable[[int, int, int], bytes] | None = None
) -> bytes:
    """Return an archive; `end` writes the end record from (count, size, offset) of the directory."""
    body, directory = bytearray(before), bytearray()
    for member in members:
        at = len(body)
        raw = zlib.compress(member.data, 9)[2:-4] if member.method == 8 else member.data
        numbers = {
            "flags": member.flags,
            "method": member.method,
            "crc": zlib.crc32(member.data) if member.crc is None else member.crc,
            "compressed": len(raw) if member.compressed is None else member.compressed,
            "size": len(member.data) if member.size is None else member.size,
            "name": member.name,
        }
        local = numbers | member.local
        title = str(local["name"]).encode()
        head = (local["flags"], local["method"], local["crc"], local["compressed"], local["size"])
        body += struct.pack("<4s2xHH4xIIIHH", b"PK\3\4", *head, len(title), len(member.extra))
        body += title + member.extra + raw + member.after
        title = member.name.encode()
        head = tuple(numbers[k] for k in ("flags", "method", "crc", "compressed", "size"))
        where = at if member.offset is None else member.offset
        extra = member.central_extra
        directory += struct.pack(
            "<4s4xHH4xIIIHHHHHII", b"PK\1\2", *head, len(title), len(extra), 0, 0, 0, 0, where
        )
        directory += title + extra
    start = len(body)
    finish = end or end_record
    return bytes(body + directory + finish(len(members), len(directory), start))


def end_record(count: int, size: int, start: int, comment: bytes = b"") -> bytes:
    head = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, count, count, size, start, len(comment))
    return head + comment


def end_record64(
    count: int, size: int, start: int, *, at: int | None = None, lie: tuple[int, int, int] | None = None
) -> bytes:
    """Return ZIP64 end record and locator, then an end record that says `lie` or refers to ZIP64."""
    record = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 0, 45, 0, 0, count, count, size, start)
    where = start + size if at is None else at
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, where, 1)
    return record + locator + end_record(*(lie or (0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)))


# -- containers ----------------------------------------------------------------------------------


MakeWeight = Callable[[Any], bytes]


class Box:
    """A container of a pickle and its storages."""

    label = ""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}

    def storage(
        self,
        key: str = "0",
        kind: str = "FloatStorage",
        numel: int | bytes = 4,
        data: bytes | None = WEIGHT.tobytes(),
        location: str = "cpu",
        module: str = "torch",
    ) -> bytes:
        """Return a storage by its persistent id; with `data=None` its bytes are missing."""
        if data is not None:
            self.data[key] = data
        count = numel if isinstance(numel, bytes) else integer(numel)
        place = name(module, kind)
        return sequence(text("storage"), place, text(key), text(location), count) + b"Q"

    def weight(self, geometry: tuple[bytes, ...] = GEOMETRY, *more: bytes, **storage: Any) -> bytes:
        """Return the valid weight, or one with another geometry or storage."""
        return view(self.storage(**storage), *geometry, *more)

    def case(self, number: int, label: str, root: bytes, *codes: str, **expected: Any) -> FileCase:
        """Return a file with this root, refused with one of `codes` or, without codes, accepted."""
        return FileCase(number, f"{self.label} {label}", self.file(root), codes, **expected)

    def table(
        self, number: int, roots: Mapping[str, bytes], *codes: str, **expected: Any
    ) -> Iterator[FileCase]:
        """Yield a case for each root, by its label."""
        return (self.case(number, label, root, *codes, **expected) for label, root in roots.items())

    @classmethod
    def weights(
        cls, number: int, weights: Mapping[str, MakeWeight], *codes: str, **expected: Any
    ) -> Iterator[FileCase]:
        """Yield files whose only entry is "w", which a function makes for the box."""
        for label, make in weights.items():
            box = cls()
            yield box.case(number, label, mapping(w=make(box)), *codes, **expected)

    @classmethod
    def changed(
        cls, number: int, changed: Mapping[str, dict[str, Any]], *codes: str, **expected: Any
    ) -> Iterator[FileCase]:
        """Yield files with other weights than the valid one, given as arguments of `weight`."""
        made = {label: lambda box, c=changes: box.weight(**c) for label, changes in changed.items()}
        return cls.weights(number, made, *codes, **expected)

    def file(self, body: bytes, head: bytes = b"\x80\x02", stop: bytes = b".") -> bytes:
        """Return the bytes of the file whose root is `body`."""
        return self.wrap(head + body + stop)

    def wrap(self, pickle: bytes) -> bytes:
        raise NotImplementedError


class ZipBox(Box):
    label = "zip"

    def members(self, pickle: bytes) -> list[ZipMember]:
        made = [
            ZipMember("m/data.pkl", pickle),
            ZipMember("m/byteorder", b"little"),
            *(ZipMember(f"m/data/{key}", data) for key, data in self.data.items()),
        ]
        return [*made, ZipMember("m/version", b"3\n")]

    def wrap(self, pickle: bytes) -> bytes:
        return archive(self.members(pickle))


class ScriptBox(ZipBox):
    label = "TorchScript"

    def members(self, pickle: bytes) -> list[ZipMember]:
        code = ZipMember("m/code/__torch__.py", b"import os; os.system('touch PWNED')" * 50, method=8)
        return [*super().members(pickle), code, ZipMember("m/constants.pkl", b"\x80\x02).")]


class LegacyBox(Box):
    label = "legacy"
    magic = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
    version = b"\x80\x02M\xe9\x03."
    system = b"\x80\x02" + mapping(little_endian=b"\x88", protocol_version=b"M\xe9\x03") + b"."
    width = 4

    def __init__(self) -> None:
        super().__init__()
        self.keys: list[str] | None = None
        self.numel: int | None = None
        self.tail = b""

    def wrap(self, pickle: bytes) -> bytes:
        used = [key for key in self.data if text(key) in pickle]
        keys = used if self.keys is None else self.keys
        listed = b"\x80\x02](" + b"".join(map(text, keys)) + b"e."
        body = self.magic + self.version + self.system + pickle + listed
        for key in keys:
            data = self.data.get(key, b"")
            numel = len(data) // self.width if self.numel is None else self.numel
            body += struct.pack("<q", numel) + data
        return body + self.tail


class PlainBox(Box):
    """The format of pickle.dump: each storage consists of the bytes of a whole legacy file."""

    label = "pickle"

    def storage(self, *args: Any, **kwargs: Any) -> bytes:
        inner = LegacyBox()
        whole = inner.file(inner.storage(*args, **kwargs))
        raw = b"B" + struct.pack("<I", len(whole)) + whole
        return call(name("torch.storage", "_load_from_bytes"), raw)

    def wrap(self, pickle: bytes) -> bytes:
        return pickle


BOXES: list[type[Box]] = [ZipBox, ScriptBox, LegacyBox, PlainBox]
