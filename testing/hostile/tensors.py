"""Hostile numbers in tensors and storages, and unsupported kinds of tensors."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from testing.checkpoints.assemble import (
    BOXES,
    GEOMETRY,
    GOOD,
    ORDERED,
    REBUILD,
    WEIGHT,
    Box,
    LegacyBox,
    PlainBox,
    call,
    integer,
    integers,
    mapping,
    name,
    sequence,
    text,
)
from testing.checkpoints.case import Case


def cases() -> Iterator[Case]:
    for box in BOXES:
        yield from _storages(box)
        yield from _geometry(box)
        yield from _sharing(box)
        yield from _kinds(box)
        yield from _accepted(box)


def _float(value: float) -> bytes:
    return b"G" + struct.pack(">d", value)


def _storages(make: type[Box]) -> Iterator[Case]:
    """Cases 19, 24 and 25: persistent ids."""
    numels = {str(n): integer(n) for n in (3, 5, -1)}
    numels |= {"2^62": integer(1 << 62), "2^100": integer(1 << 100)}
    numels |= {"True": b"\x88", "None": b"N", "4.0": _float(4.0)}
    codes = ("storage-size", "truncated", "tensor-bounds")
    for label, numel in numels.items():
        yield make.one(19, f"numel {label}", *codes, numel=numel)
    yield make.one(19, "bytes cut", "storage-size", data=WEIGHT.tobytes()[:12])
    for key in ("../../x", "/etc/passwd", "", "0/../1", "٣", "0 ", "-1", "x", "1" * 40):
        yield make.one(24, f"key {key!r}", "storage-key", key=key, data=None)
    yield make.one(25, "no bytes", "missing-storage", data=None)
    bad_id = sequence(text("storage")) + b"Q"
    yield make.one(25, "short persistent id", "pickle-malformed", weight=bad_id)


def _geometry(make: type[Box]) -> Iterator[Case]:
    """Cases 20, 21 and 35: sizes, strides and offsets."""
    for label, (offset, size, stride) in {
        "offset 1": (1, (2, 2), (2, 1)),
        "offset -1": (-1, (2, 2), (2, 1)),
        "offset 2^63": (1 << 63, (2, 2), (2, 1)),
        "stride 3": (0, (2, 2), (3, 1)),
        "stride -1": (3, (2, 2), (-2, 1)),
        "stride 2^62": (0, (2, 2), (1 << 62, 1)),
        "size -1": (0, (-1, 2), (2, 1)),
        "size 3": (0, (3, 2), (2, 1)),
        "size 2^40": (0, (1 << 40,), (1,)),
        "fewer strides": (0, (2, 2), (2,)),
        "more strides": (0, (2,), (2, 1)),
        "65 dimensions": (0, (1,) * 65, (1,) * 65),
        "empty at offset 5": (5, (0,), (1,)),
    }.items():
        geometry = (integer(offset), integers(*size), integers(*stride))
        yield make.one(20, label, "tensor-shape", "tensor-bounds", geometry=geometry)
    for label, geometry in {
        "size a list": (integer(0), b"](K\x02K\x02e", integers(2, 1)),
        "size of floats": (integer(0), sequence(_float(4.0)), integers(1)),
        "offset a text": (text("0"), *GEOMETRY[1:]),
        "size True": (integer(0), sequence(b"\x88", integer(2)), integers(2, 1)),
    }.items():
        yield make.one(20, label, "tensor-shape", geometry=geometry)
    for number, label, size, stride, code in (
        (21, "stride 0, 2^31 x 2^20", (1 << 31, 1 << 20), 0, "tensor-budget"),
        (21, "stride 0, 2^62", (1 << 61,), 0, "tensor-budget"),
        (21, "stride 0, 16 MB of 4 bytes, 100 times", (1 << 22, 100), 0, "tensor-budget"),
        (35, "[0, 2^60]", (0, 1 << 60), 1, "tensor-shape"),
        (35, "[2^31, 0, 2^31]", (1 << 31, 0, 1 << 31), 1, "tensor-shape"),
    ):
        geometry = (integer(0), integers(*size), integers(*(stride,) * len(size)))
        yield make.one(number, label, code, geometry=geometry)
    box = make()
    one = box.weight((integer(0), integers(1 << 22), integers(0)))
    many = b"](" + one * 201 + b"e"
    yield box.case(21, "stride 0, 200 tensors of 16 MB", many, "tensor-budget")


def _sharing(make: type[Box]) -> Iterator[Case]:
    """Cases 22 and 23: a storage that is used twice."""
    box = make()
    tensors = {"a": WEIGHT, "b": WEIGHT}
    yield box.case(23, "tied", mapping(a=box.weight(), b=box.weight()), tensors=tensors)
    same = mapping(a=box.weight() + b"q\x00", b=b"h\x00")
    yield box.case(23, "one tensor, two names", same, tensors=tensors)
    if make is PlainBox:
        return
    for kind, numel in {"IntStorage": 4, "DoubleStorage": 2}.items():
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


def _kinds(make: type[Box]) -> Iterator[Case]:
    """Case 26: unsupported kinds of tensors, each refused by its name in the checkpoint."""

    def case(label: str, **weight: object) -> Case:
        return make.one(26, label, "unsupported-tensor", **weight)  # type: ignore[arg-type]

    for label, function in {
        "quantized": "_rebuild_qtensor",
        "sparse": "_rebuild_sparse_tensor",
        "sparse csr": "_rebuild_sparse_csr_tensor",
        "nested": "_rebuild_nested_tensor",
        "meta": "_rebuild_meta_tensor_no_storage",
        "wrapper subclass": "_rebuild_wrapper_subclass",
        "from numpy": "_rebuild_device_tensor_from_numpy",
        "of the future": "_rebuild_tensor_v9",
    }.items():
        rebuild = name("torch._utils", function)
        yield case(label, weight=lambda box, rebuild=rebuild: call(rebuild, box.weight(), b"N"))
    for label, kind in {
        "subclass": name("theirs", "Tensor"),
        "FakeTensor": name("torch._subclasses", "FakeTensor"),
    }.items():

        def typed(box: Box, kind: bytes = kind) -> bytes:
            inner = sequence(box.storage(), *GEOMETRY, b"\x89", ORDERED)
            return call(name("torch._tensor", "_rebuild_from_type_v2"), REBUILD, kind, inner, b"}")

        yield case(label, weight=typed)
    yield case("conjugate view", weight=lambda box: box.weight(GEOMETRY, mapping(conj=b"\x88")))
    yield case("QInt8Storage", kind="QInt8Storage", numel=16)
    yield case("posix.system as storage type", kind="system", module="posix")
    quantized = call(name("torch._utils", "_rebuild_qtensor"))
    parameter = call(name("torch._utils", "_rebuild_parameter"), quantized, b"\x88", ORDERED)
    yield case("quantized parameter", weight=parameter)


def _accepted(make: type[Box]) -> Iterator[Case]:
    """Cases 27, 32 and 39: unusual but valid files."""
    for device in ("cuda:7", "meta", "mps", "x" * 500):
        yield make.one(27, f"on {device[:9]}", expected={"tensors": GOOD}, location=device)
    enum = call(name("their_project", "Mode"), integer(1))
    config = name("their_project", "Config") + b")\x81" + mapping(mode=enum) + b"b"
    attributes = name("lightning.fabric", "AttributeDict") + b")\x81(" + text("lr") + config + b"u"
    box = make()
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
        expected = {"tensors": {"w": odd}, "warns": True}
        yield make.one(39, label, expected=expected, data=odd.tobytes())
