"""Hostile numbers in tensors and storages, unsupported kinds of tensors, and the legacy stream format."""

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from testing.checkpoints.assemble import (
    BOXES,
    GEOMETRY,
    GOOD,
    ORDERED,
    WEIGHT,
    Box,
    LegacyBox,
    MakeWeight,
    PlainBox,
    call,
    integer,
    integers,
    mapping,
    name,
    sequence,
    text,
    view,
)
from testing.checkpoints.case import FileCase, table

GEOMETRIES: dict[str, tuple[int, tuple[int, ...], tuple[int, ...]]] = {
    "offset 1": (1, (2, 2), (2, 1)),
    "offset -1": (-1, (2, 2), (2, 1)),
    "offset 2^63": (1 << 63, (2, 2), (2, 1)),
    "stride 3": (0, (2, 2), (3, 1)),
    "stride 2^62": (0, (2, 2), (1 << 62, 1)),
    "size -1": (0, (-1, 2), (2, 1)),
    "size 2^40": (0, (1 << 40,), (1,)),
    "fewer strides": (0, (2, 2), (2,)),
    "65 dimensions": (0, (1,) * 65, (1,) * 65),
    "empty at offset 5": (5, (0,), (1,)),
}
"""Wrong offsets, sizes and strides of the weight, in elements."""


def cases() -> Iterator[FileCase]:
    for box in BOXES:
        yield from _storages(box)
        yield from _geometry(box)
        yield from _sharing(box)
        yield from _kinds(box)
        yield from _accepted(box)
    yield from _legacy()


def _float(value: float) -> bytes:
    return b"G" + struct.pack(">d", value)


def _storages(make: type[Box]) -> Iterator[FileCase]:
    """Cases 19, 24, 25 and 27: persistent ids."""
    numels = {str(n): integer(n) for n in (3, 5, -1)}
    numels |= {"2^62": integer(1 << 62), "2^100": integer(1 << 100)}
    numels |= {"True": b"\x88", "None": b"N", "4.0": _float(4.0)}
    changes = {f"numel {label}": {"numel": numel} for label, numel in numels.items()}
    yield from make.changed(19, changes, "storage-size", "truncated", "tensor-bounds")
    yield from make.changed(19, {"bytes cut": {"data": WEIGHT.tobytes()[:12]}}, "storage-size")
    keys = ("../../x", "/etc/passwd", "", "0/../1", "٣", "0 ", "-1", "x", "1" * 40)
    yield from make.changed(24, {f"key {k!r}": {"key": k, "data": None} for k in keys}, "storage-key")
    yield from make.changed(25, {"no bytes": {"data": None}}, "missing-storage")
    short = sequence(text("storage")) + b"Q"
    untyped = {"kind": "UntypedStorage", "module": "torch.storage", "numel": 16}
    ids: dict[str, MakeWeight] = {
        "short persistent id": lambda box: short,
        "storage of no type": lambda box: box.weight().replace(name("torch", "FloatStorage"), text("x")),
        "untyped storage of no dtype": lambda box: box.weight(**untyped),
    }
    # In a pickle, a storage is a separate file of a declared length.
    yield from make.weights(25, ids, "pickle-malformed", "pickle-opcode", "storage-size")
    devices = {f"on {device[:9]}": {"location": device} for device in ("cuda:7", "meta", "mps", "x" * 500)}
    yield from make.changed(27, devices, tensors=GOOD)


def _geometry(make: type[Box]) -> Iterator[FileCase]:
    """Cases 20, 21 and 35: sizes, strides and offsets."""
    numbers = {
        k: (integer(o), integers(*size), integers(*stride)) for k, (o, size, stride) in GEOMETRIES.items()
    }
    types = {
        "size a list": (integer(0), b"](K\x02K\x02e", integers(2, 1)),
        "size of floats": (integer(0), sequence(_float(4.0)), integers(1)),
        "offset a text": (text("0"), *GEOMETRY[1:]),
        "size True": (integer(0), sequence(b"\x88", integer(2)), integers(2, 1)),
    }
    for geometries, codes in ((numbers, ("tensor-shape", "tensor-bounds")), (types, ("tensor-shape",))):
        made = {label: {"geometry": geometry} for label, geometry in geometries.items()}
        yield from make.changed(20, made, *codes)
    for number, label, size, stride, code in (
        (21, "stride 0, 2^31 x 2^20", (1 << 31, 1 << 20), 0, "tensor-budget"),
        (21, "stride 0, 2^62", (1 << 61,), 0, "tensor-budget"),
        (21, "stride 0, 16 MB of 4 bytes, 100 times", (1 << 22, 100), 0, "tensor-budget"),
        (35, "[0, 2^60]", (0, 1 << 60), 1, "tensor-shape"),
        (35, "[2^31, 0, 2^31]", (1 << 31, 0, 1 << 31), 1, "tensor-shape"),
    ):
        geometry = (integer(0), integers(*size), integers(*(stride,) * len(size)))
        yield from make.changed(number, {label: {"geometry": geometry}}, code)
    box = make()
    one = box.weight((integer(0), integers(1 << 22), integers(0)))
    many = b"](" + one * 201 + b"e"
    yield box.case(21, "stride 0, 200 tensors of 16 MB", many, "tensor-budget")


def _sharing(make: type[Box]) -> Iterator[FileCase]:
    """Cases 22 and 23: a storage that is used twice."""
    box = make()
    weight = box.weight()
    roots = {
        "tied": mapping(a=weight, b=weight),
        "one tensor, two names": mapping(a=weight + b"q\x00", b=b"h\x00"),
    }
    yield from box.table(23, roots, tensors={"a": WEIGHT, "b": WEIGHT})
    if make is PlainBox:
        return
    for kind, numel in {"IntStorage": 4, "DoubleStorage": 2, "FloatStorage": 2}.items():
        box = make()
        root = mapping(a=box.weight(), b=box.weight(kind=kind, numel=numel))
        yield box.case(22, f"as float32 and {kind}", root, "storage-dtype", "storage-size")
    box = make()
    untyped = box.storage(kind="UntypedStorage", module="torch.storage", numel=16)
    v3 = name("torch._utils", "_rebuild_tensor_v3")
    first, second = (
        call(v3, untyped, integer(0), integers(2), integers(1), b"\x89", ORDERED, name("torch", d))
        for d in ("uint16", "float8_e5m2")
    )
    if isinstance(box, LegacyBox):
        box.width = 1
    yield box.case(22, "as two dtypes", mapping(a=first, b=second), "storage-dtype")


def _kinds(make: type[Box]) -> Iterator[FileCase]:
    """Case 26: unsupported kinds of tensors, each refused by its name in the checkpoint."""

    def rebuilt(function: str) -> MakeWeight:
        return lambda box: call(name("torch._utils", function), box.weight(), b"N")

    quantized = call(name("torch._utils", "_rebuild_qtensor"))
    parameter = call(name("torch._utils", "_rebuild_parameter"), quantized, b"\x88", ORDERED)
    kinds: dict[str, MakeWeight] = {
        "quantized": rebuilt("_rebuild_qtensor"),
        "of the future": rebuilt("_rebuild_tensor_v9"),
        "QInt8Storage": lambda box: box.weight(kind="QInt8Storage", numel=16),
        "posix.system as storage type": lambda box: box.weight(kind="system", module="posix"),
        "quantized parameter": lambda box: parameter,
    }
    yield from make.weights(26, kinds, "unsupported-tensor")
    box = make()
    key = b"}(" + _float(4.0) + box.weight() + b"u"
    yield box.case(26, "a number as a name", key, "unsupported-tensor")
    yield box.case(10, "a name of 5,000 letters", mapping(**{"x" * 5_000: box.weight()}), "too-deep")


def _accepted(make: type[Box]) -> Iterator[FileCase]:
    """Cases 32 and 39: unusual but valid files."""
    enum = call(name("their_project", "Mode"), integer(1))
    config = name("their_project", "Config") + b")\x81" + mapping(mode=enum) + b"b"
    attributes = name("lightning.fabric", "AttributeDict") + b")\x81(" + text("lr") + config + b"u"
    box = make()
    items = sequence(text("w"), call(name("torch._utils", "_rebuild_tensor"), box.storage(), *GEOMETRY))
    python2 = call(name("collections", "OrderedDict"), b"](" + items + b"e")
    yield box.case(32, "a list of pairs and the first rebuild function", python2, tensors=GOOD)
    state, tensors = mapping(w=box.weight()), {"state_dict.w": WEIGHT}
    lightning = mapping(
        state_dict=state,
        hyper_parameters=attributes,
        callbacks=b"}" + name("their_project", "Checkpoint") + mapping(best=config) + b"s",
        loops=b"](" + config + enum + b"e",
    )
    yield box.case(32, "Lightning", lightning, tensors=tensors)
    inside = config[:-1] + b"(" + text("t") + box.weight() + b"ub"
    held = mapping(state_dict=state, x=inside)
    yield box.case(32, "tensor in a placeholder", held, tensors=tensors, warns=True)
    for label, value in {"NaN": np.nan, "infinity": -np.inf}.items():
        odd = np.array([[1, value], [2, value]], "<f4")
        yield from make.changed(39, {label: {"data": odd.tobytes()}}, tensors={"w": odd}, warns=True)


def _legacy() -> Iterator[FileCase]:
    """Case 30: the legacy stream format."""
    for make in (LegacyBox, PlainBox):
        yield from make.changed(0, {"as it should be": {}}, tensors=GOOD)
    # Attributes of the file, and the error code.
    edits: dict[str, tuple[dict[str, Any], str]] = {
        "magic number": ({"magic": b"\x80\x02\x8a\x01\x07."}, "legacy-header"),
        "magic text": ({"magic": b"\x80\x02" + text("x") + b"."}, "trailing-bytes"),
        "protocol 1002": ({"version": b"\x80\x02M\xea\x03."}, "legacy-header"),
        "protocol a text": ({"version": b"\x80\x02" + text("1") + b"."}, "legacy-header"),
        "no system": ({"system": b"\x80\x02N."}, "legacy-header"),
        "system without byte order": ({"system": b"\x80\x02}."}, "legacy-header"),
        "keys missing": ({"keys": []}, "missing-storage"),
        "keys twice": ({"keys": ["0", "0"]}, "missing-storage"),
        "numel 3": ({"numel": 3}, "storage-size"),
        "numel -1": ({"numel": -1}, "storage-size"),
        "numel 2^62": ({"numel": 1 << 62}, "storage-size"),
        "storage cut": ({"data": {"0": WEIGHT.tobytes()[:-1]}}, "storage-size"),
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
    inner = LegacyBox()
    nested = {"cut": inner.file(inner.storage())[:-4], "of no storage": LegacyBox().file(b"N")}
    for label, raw in nested.items():
        load = call(name("torch.storage", "_load_from_bytes"), b"B" + struct.pack("<I", len(raw)) + raw)
        root = mapping(w=view(load, *GEOMETRY))
        yield PlainBox().case(30, f"nested file {label}", root, "truncated", "legacy-header")
    yield from LegacyBox.changed(30, {"4 TB announced": {"numel": 1 << 40}}, "truncated")
