"""Minimized findings of the fuzzer and of code reviews, and bombs: small files that cost much time or memory.

Each finding once caused an undocumented exception, killed the process, or exceeded the limits on time or
memory. Each bomb, in cases 8 and 9, repeats something that a reader does for every mention in the file:
create an object, hash a key, decode a string, build a name, open a storage. One machine reads the pickles of
all containers.
"""

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
    ZipMember,
    archive,
    call,
    end_record64,
    integer,
    integers,
    mapping,
    name,
    sequence,
    text,
    view,
)
from testing.checkpoints.case import FileCase, table
from testing.hostile.formats import entry, safetensors

N = 300_000


def _bombs() -> Iterator[FileCase]:
    yield from ZipBox().table(8, dict(_objects()), "pickle-budget")
    yield from _work()
    yield from _plain()
    yield from _entries()


def _objects() -> Iterator[tuple[str, bytes]]:
    """Yield tuples of many small objects, each of which must be accounted for."""
    bodies = {
        "dictionaries": b"}K\x01Ns" * 2 * N,
        "numbers": (b"J\0\0\1\1") * 5 * N,
        "globals": b"ca\nb\n" * 3 * N,
        "placeholders": name("a", "b") + b"q\x000" + b"h\x00)R" * 2 * N,
        "refused tensors": name("torch._utils", "_rebuild_x") + b"q\x000" + b"h\x00)R" * 2 * N,
        "memo places": b"".join(b"Nr" + struct.pack("<I", i) for i in range(3 * N)),
        "texts that widen": text("😀" + "x" * 65_000) * 300,
    }
    for label, body in bodies.items():
        yield f"bomb of {label}", b"(" + body + b"t"


def _work() -> Iterator[FileCase]:
    """Work that repeats for each mention."""
    box = ZipBox()
    key = b"(" + b"N" * 1_000_000 + b"tq\x000(" + b"}h\x00Ns" * N + b"t"
    yield box.case(9, "bomb: a key of 1,000,000 elements", key, "pickle-malformed")
    members = name("a", "B") + b")\x81q\x000h\x00}("
    members += b"".join(text(key) + b"}" for key in ("_parameters", "_buffers", "_modules"))
    unsaved = text("_non_persistent_buffers_set") + b"\x8f(" + b"h\x00" * 50_000 + b"\x90"
    roots = {
        "keys that are not names": b"}(" + b"C\x01aN" * 100_000 + b"uq\x000(" + b"h\x00" * N + b"t",
        "a module's set of buffers": members + unsaved + b"ub0(" + b"h\x00" * N + b"t",
    }
    files = {f"bomb: {label}": box.file(root, head=b"\x80\x04") for label, root in roots.items()}
    yield from table(9, box.label, files, "node-budget")
    long = text("k" * 60_000) + b"q\x000}h\x00Nsq\x010"
    yield box.case(9, "bomb: a name of 60,000 letters", long + b"(" + b"h\x01" * N + b"t")
    many = b"}(" + b"".join(text(str(i)) + b"h\x00" for i in range(20_000)) + b"u"
    inner = box.weight() + b"q\x000}" + text("k" * 3_900) + many + b"s"
    yield box.case(9, "bomb: long names of tensors", inner, "node-budget")
    for dims in (2, 64):
        size = integers(*(1,) * dims)
        args = sequence(box.storage(), integer(0), size, size, b"\x89", ORDERED)
        mentions = REBUILD + b"q\x000" + args + b"q\x010(" + b"h\x00h\x01R" * N + b"t"
        yield box.case(9, f"bomb: tensors of {dims} dimensions", mentions, "pickle-budget")


def _plain() -> Iterator[FileCase]:
    """Strings to decode, and files nested in files."""
    box, inner = PlainBox(), LegacyBox()
    raw = (WEIGHT.tobytes() * 5_000).decode("latin1").encode()
    encode = name("_codecs", "encode") + b"q\x000X" + struct.pack("<I", len(raw)) + raw
    again = b"q\x010(" + b"h\x00h\x01R" * N + b"t"
    yield box.case(9, "bomb: one text, decoded again", encode + text("latin1") + b"\x86" + again)
    nested = inner.file(inner.storage())
    load = name("torch.storage", "_load_from_bytes") + b"q\x000"
    once = b"B" + struct.pack("<I", len(nested)) + nested + b"\x85"
    yield box.case(9, "bomb: one storage, opened again", load + once + again)
    for _ in range(4):
        nested = b"\x80\x02" + load + b"B" + struct.pack("<I", len(nested)) + nested + b"\x85R."
    deep = {"storages within storages": nested}
    yield from table(10, box.label, deep, "legacy-header", "pickle-malformed")


def _entries() -> Iterator[FileCase]:
    """Directories and headers with many entries."""
    members = [ZipMember(f"m/{i}", b"") for i in range(60_000)]
    yield FileCase(8, "zip bomb of 60,000 entries", archive(members, end=end_record64), ("zip-directory",))
    files = {str(n): safetensors(b'{"a":[' + b"[]," * n + b"1]}") for n in (600_000, 6_000_000)}
    yield from table(8, "safetensors bomb of lists:", files, "safetensors-header")
    lists = b'{"weight_map":{},"a":[' + b"[]," * 3_000_000 + b"1]}"
    yield FileCase(8, "index bomb of lists", lists, ("unknown-format",))


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
    yield from _bombs()
    yield from _long_messages()
    # Storage keys that resemble the expected ones.
    keys = b"](K\x00X\1\0\0\0000e"
    yield FileCase(25, "legacy keys of two types", _with_keys(keys), ("missing-storage",))
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
    members = {"a list": b"]", "a call": mapping(w=call(name("posix", "system"), text("touch PWNED")))}
    for label, parameters in members.items():
        module = name("a", "Net") + b")\x81" + mapping(_parameters=parameters, _modules=b"}") + b"b"
        codes = ("pickle-malformed", "foreign-weight")
        yield ZipBox().case(26, f"{label} as parameters", module, *codes)
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
