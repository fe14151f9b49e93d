"""Minimized findings of the fuzzer and of code reviews that followed them.

Each file once caused an undocumented exception, killed the process, or exceeded the limits on time or
memory.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from testing.checkpoints.assemble import (
    BOXES,
    GOOD,
    ORDERED,
    REBUILD,
    WEIGHT,
    LegacyBox,
    PlainBox,
    ScriptBox,
    ZipBox,
    archive,
    call,
    integer,
    integers,
    mapping,
    name,
    sequence,
    text,
    view,
)
from testing.checkpoints.case import FileCase
from testing.hostile.formats import entry, safetensors

# Its repr is deeper than Python's stack.
DEEP = b"]" * 2_000 + b"a" * 1_999
# Its hash is deeper than the C stack.
DEEPER = b")" + b"\x85" * 200_000
# A few opcodes whose repr has 268 MB.
WIDE = text("x" * 65_000) + b"".join(
    b"r" + at + b"0(" + (b"j" + at) * 16 + b"t" for at in (b"\x00\1\0\0", b"\1\1\0\0", b"\2\1\0\0")
)
# Takes more than half of the memory allowed for a small file.
LISTS = b"](" + b"]" * 270_000 + b"e"


def cases() -> Iterator[FileCase]:
    """Yield all findings, numbered as the cases of docs/safety.md."""
    yield from _long_messages()
    yield from _keys()
    yield from _hashed()
    yield from _held_at_once()
    yield from _strides()
    yield from _json()


def _long_messages() -> Iterator[FileCase]:
    """Cases 9 and 10: an error message contained the whole offending value."""
    for make in BOXES:
        for label, odd in {"deep": DEEP, "wide": WIDE}.items():
            box = make()
            good, sizes, strides = box.storage(), integers(2, 2), integers(2, 1)
            bodies = {
                "size": view(good, integer(0), sequence(odd), strides),
                "stride": view(good, integer(0), sizes, sequence(odd, odd)),
                "offset": view(good, odd, sizes, strides),
            }
            if make is not PlainBox:
                storage = (text("storage"), name("torch", "FloatStorage"))
                bodies["storage key"] = sequence(*storage, odd, text("cpu"), integer(4)) + b"Q"
                bodies["numel"] = sequence(*storage, text("0"), text("cpu"), odd) + b"Q"
            codes = ("tensor-shape", "storage-key", "storage-size")
            for place, body in bodies.items():
                yield box.case(10, f"{label} {place}", mapping(w=body), *codes)
        box = make()
        twice = b"}(" + (WIDE + b"N") * 2 + b"u"
        yield box.case(9, "a wide key twice", twice, "duplicate-key")
    for label, odd in {"deep": DEEP, "wide": WIDE}.items():
        box = LegacyBox()
        box.version = b"\x80\x02" + odd + b"."
        body = mapping(w=box.weight())
        yield FileCase(10, f"legacy {label} version", box.file(body), ("legacy-header",))
        file = _with_keys(odd)
        yield FileCase(10, f"legacy {label} storage keys", file, ("missing-storage",))


def _with_keys(keys: bytes) -> bytes:
    """Return a legacy file with a different list of storage keys and without storages."""
    box = LegacyBox()
    raw = box.file(mapping(w=box.weight()))
    return raw[: raw.rindex(b"\x80\x02](")] + b"\x80\x02" + keys + b"."


def _keys() -> Iterator[FileCase]:
    """Case 25: storage keys that resemble the expected ones."""
    for label, keys in {"a number": b"](K\x00e", "two types": b"](K\x00X\1\0\0\0000e"}.items():
        yield FileCase(25, f"legacy keys {label}", _with_keys(keys), ("missing-storage",))


def _hashed() -> Iterator[FileCase]:
    """Cases 10 and 26: a value was looked up in a table before its type was checked."""
    for make in BOXES:
        for label, odd in {"a list": b"]", "200,000 tuples": DEEPER}.items():
            for place in ("class", "function"):
                box = make()
                parts = {"function": REBUILD, "class": name("torch.nn.parameter", "Parameter")}
                parts |= {place: odd}
                inner = sequence(box.storage(), integer(0), integers(2), integers(1), b"N", ORDERED)
                made = call(name("torch._tensor", "_rebuild_from_type_v2"), *parts.values(), inner, b"}")
                codes = ("unsupported-tensor", "pickle-malformed")
                yield box.case(26, f"{place} {label}", mapping(w=made), *codes)
    for label, dropout in {"2^2000": integer(1 << 2000), "2": integer(2)}.items():
        box = ZipBox()
        state = mapping(
            _parameters=mapping(w=box.weight()), _modules=b"}", batch_first=b"\x88", dropout=dropout
        )
        module = name("a", "LSTM") + b")\x81" + state + b"b"
        yield FileCase(32, f"dropout {label}", box.file(module), tensors=GOOD, warns=True)


def _held_at_once() -> Iterator[FileCase]:
    """Cases 8 and 9: several pickles in one file, each within its limits but not all together."""
    codes = ("pickle-budget",)
    box = LegacyBox()
    good = mapping(w=box.weight(), x=LISTS)
    raw = box.file(good)
    keys = raw[: raw.rindex(b"\x80\x02](")] + b"\x80\x02" + LISTS + b"."
    yield FileCase(8, "legacy lists, and lists for keys", keys, codes)
    box = LegacyBox()
    box.magic = b"\x80\x02" + LISTS + b"r\0\0\0\x010" + LegacyBox.magic[2:]
    yield FileCase(8, "legacy lists, and lists before the magic", box.file(good), codes)
    script = ScriptBox()
    module = name("__torch__", "M") + b")\x81" + mapping(w=script.weight(), x=LISTS) + b"b"
    members = script.members(b"\x80\x02" + module + b".")
    for member in members:
        if member.name.endswith("constants.pkl"):
            member.data = b"\x80\x02(" + LISTS + b"t."
    yield FileCase(8, "TorchScript lists, and lists for constants", archive(members), codes)
    yield FileCase(9, "400 shards of 90,000 references", _shards, ("node-budget",))
    zipped, n = ZipBox(), 12_000
    zipped.data["0"] = struct.pack("<f", np.nan)
    place = zipped.storage(numel=1, data=None)
    items = b"".join(text(str(i)) + view(place, integer(0), b")", b")") for i in range(n))
    tensors = {str(i): np.array(np.nan, "<f4") for i in range(n)}
    file = zipped.file(b"}(" + items + b"u")
    yield FileCase(39, f"{n} tensors of NaN", file, tensors=tensors, warns=True)


def _shards(folder: Path) -> Path:
    box = ZipBox()
    rows = b"](" + b"N" * 300 + b"eq\x010](" + b"h\x01" * 300 + b"e"
    shard = box.file(mapping(w=box.weight(), x=rows))
    for index in range(400):
        (folder / f"s{index}").write_bytes(shard)
    weight_map = {f"w{index}": f"s{index}" for index in range(400)}
    (folder / "index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder / "index.json"


def _strides() -> Iterator[FileCase]:
    """Case 20: the stride of an axis of size one is unused and may be any number."""
    for make in BOXES:
        box = make()
        column = view(box.storage(), integer(1), integers(1, 2), integers((1 << 62) - 1, 2))
        tensors = {"w": WEIGHT[:, 1:].reshape(1, 2)}
        yield box.case(20, "a stride of 2^62", mapping(w=column), tensors=tensors)


def _json() -> Iterator[FileCase]:
    """Cases 35 and 36: valid JSON strings that other formats cannot represent."""
    index = b'{"weight_map": {"w": "\\ud800"}}'
    yield FileCase(36, "shards: an invalid file name", index, ("shard-path",))
    # Depths around the limit of Python's stack.
    for depth in range(930, 990, 3):
        for key, where in {"shape": b'"shape":[2,2]', "dtype": b'"dtype":"F32"'}.items():
            raw = json.dumps({"w": entry()}, separators=(",", ":")).encode()
            odd = b'"%s":%s%s' % (key.encode(), b"[" * depth, b"]" * depth)
            file = safetensors(raw.replace(where, odd))
            codes = ("safetensors-header", "tensor-shape", "unsupported-tensor")
            yield FileCase(35, f"safetensors {key} {depth} deep", file, codes)
