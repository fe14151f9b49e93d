"""Hostile numbers in tensors and storages, and unsupported kinds of tensors."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from tests.support.checkpoints.assemble import (
    BOXES,
    ORDERED,
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
    view,
)
from tests.support.checkpoints.case import Case

SHAPE = (integer(0), integers(2, 2), integers(2, 1))


def cases() -> Iterator[Case]:
    for box in BOXES:
        yield from _storages(box)
        yield from _geometry(box)
        yield from _sharing(box)
        yield from _kinds(box)
        yield from _accepted(box)


def _storages(make: type[Box]) -> Iterator[Case]:
    """Cases 19, 24 and 25: persistent ids."""
    for label, numel in {
        "3": integer(3),
        "5": integer(5),
        "-1": integer(-1),
        "2^62": integer(1 << 62),
        "2^100": integer(1 << 100),
        "True": b"\x88",
        "None": b"N",
        "4.0": b"G" + struct.pack(">d", 4.0),
    }.items():
        box = make()
        body = mapping(w=view(box.storage(numel=numel), *SHAPE))
        codes = ("storage-size", "truncated", "tensor-bounds")
        yield Case(19, f"{box.label} numel {label}", box.file(body), codes)
    box = make()
    body = mapping(w=view(box.storage(data=WEIGHT.tobytes()[:12]), *SHAPE))
    yield Case(19, f"{box.label} bytes cut", box.file(body), ("storage-size",))
    for key in ("../../x", "/etc/passwd", "", "0/../1", "٣", "0 ", "-1", "x", "1" * 40):
        box = make()
        body = mapping(w=view(box.storage(key=key, data=None), *SHAPE))
        yield Case(24, f"{box.label} key {key!r}", box.file(body), ("storage-key",))
    box = make()
    body = mapping(w=view(box.storage(data=None), *SHAPE))
    yield Case(25, f"{box.label} no bytes", box.file(body), ("missing-storage",))
    box = make()
    bad_id = sequence(text("storage")) + b"Q"
    codes = ("pickle-malformed",)
    yield Case(25, f"{box.label} short persistent id", box.file(mapping(w=bad_id)), codes)


def _geometry(make: type[Box]) -> Iterator[Case]:
    """Cases 20, 21 and 35: sizes, strides and offsets."""
    impossible = ("tensor-shape", "tensor-bounds")
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
        box = make()
        numbers = (integer(offset), integers(*size), integers(*stride))
        body = mapping(w=view(box.storage(), *numbers))
        yield Case(20, f"{box.label} {label}", box.file(body), impossible)
    for label, numbers in {
        "size a list": (integer(0), b"](K\x02K\x02e", integers(2, 1)),
        "size of floats": (integer(0), sequence(b"G" + struct.pack(">d", 4.0)), integers(1)),
        "offset a text": (text("0"), integers(2, 2), integers(2, 1)),
        "size True": (integer(0), sequence(b"\x88", integer(2)), integers(2, 1)),
    }.items():
        box = make()
        body = mapping(w=view(box.storage(), *numbers))
        yield Case(20, f"{box.label} {label}", box.file(body), ("tensor-shape",))
    for label, size in {
        "2^31 x 2^20": (1 << 31, 1 << 20),
        "2^62": (1 << 61,),
        "16 MB of 4 bytes, 100 times": (1 << 22, 100),
    }.items():
        box = make()
        numbers = (integer(0), integers(*size), integers(*(0,) * len(size)))
        body = mapping(w=view(box.storage(), *numbers))
        yield Case(21, f"{box.label} stride 0, {label}", box.file(body), ("tensor-budget",))
    box = make()
    one = view(box.storage(), integer(0), integers(1 << 22), integers(0))
    many = (
        b"]("
        + one
        + b"".join(
            call(name("torch._utils", "_rebuild_tensor_v2"), *rest)
            for rest in [
                (box.storage(), integer(0), integers(1 << 22), integers(0), b"\x89", ORDERED)
            ]
            * 200
        )
        + b"e"
    )
    yield Case(
        21, f"{box.label} stride 0, 200 tensors of 16 MB", box.file(many), ("tensor-budget",)
    )
    for label, size in {
        "[0, 2^60]": (0, 1 << 60),
        "[2^31, 0, 2^31]": (1 << 31, 0, 1 << 31),
    }.items():
        box = make()
        strides = integers(*(1,) * len(size))
        body = mapping(w=view(box.storage(), integer(0), integers(*size), strides))
        yield Case(35, f"{box.label} {label}", box.file(body), ("tensor-shape",))


def _sharing(make: type[Box]) -> Iterator[Case]:
    """Cases 22 and 23: a storage that is used twice."""
    box = make()
    tied = mapping(a=view(box.storage(), *SHAPE), b=view(box.storage(), *SHAPE))
    tensors = {"a": WEIGHT, "b": WEIGHT}
    yield Case(23, f"{box.label} tied", box.file(tied), tensors=tensors)
    same = mapping(a=box.weight() + b"q\x00", b=b"h\x00")
    yield Case(23, f"{box.label} one tensor, two names", box.file(same), tensors=tensors)
    v3 = name("torch._utils", "_rebuild_tensor_v3")
    if make is PlainBox:
        return
    for label, kind in {"IntStorage": "IntStorage", "DoubleStorage": "DoubleStorage"}.items():
        box = make()
        numel = 2 if kind == "DoubleStorage" else 4
        body = mapping(a=box.weight(), b=view(box.storage(kind=kind, numel=numel), *SHAPE))
        codes = ("storage-dtype", "storage-size")
        yield Case(22, f"{box.label} as float32 and {label}", box.file(body), codes)
    box = make()
    untyped = box.storage(kind="UntypedStorage", module="torch.storage", numel=16)
    first, second = (
        call(v3, untyped, integer(0), integers(2), integers(1), b"\x89", ORDERED, name("torch", d))
        for d in ("uint16", "float8_e5m2")
    )
    if isinstance(box, LegacyBox):
        box.width = 1
    body = mapping(a=first, b=second)
    yield Case(22, f"{box.label} as two dtypes", box.file(body), ("storage-dtype",))


def _kinds(make: type[Box]) -> Iterator[Case]:
    """Case 26: unsupported kinds of tensors, each refused by its name in the checkpoint."""
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
        box = make()
        body = mapping(w=call(name("torch._utils", function), box.weight(), b"N"))
        yield Case(26, f"{box.label} {label}", box.file(body), ("unsupported-tensor",))
    for label, kind in {
        "subclass": name("theirs", "Tensor"),
        "FakeTensor": name("torch._subclasses", "FakeTensor"),
    }.items():
        box = make()
        inner = sequence(box.storage(), *SHAPE, b"\x89", ORDERED)
        made = call(
            name("torch._tensor", "_rebuild_from_type_v2"),
            name("torch._utils", "_rebuild_tensor_v2"),
            kind,
            inner,
            b"}",
        )
        yield Case(26, f"{box.label} {label}", box.file(mapping(w=made)), ("unsupported-tensor",))
    box = make()
    conjugate = mapping(w=view(box.storage(), *SHAPE, mapping(conj=b"\x88")))
    yield Case(26, f"{box.label} conjugate view", box.file(conjugate), ("unsupported-tensor",))
    box = make()
    strange = mapping(w=view(box.storage(kind="QInt8Storage", numel=16), *SHAPE))
    yield Case(26, f"{box.label} QInt8Storage", box.file(strange), ("unsupported-tensor",))
    box = make()
    foreign = mapping(w=view(box.storage(kind="system", module="posix"), *SHAPE))
    yield Case(
        26, f"{box.label} posix.system as storage type", box.file(foreign), ("unsupported-tensor",)
    )
    box = make()
    wrapped = call(
        name("torch._utils", "_rebuild_parameter"),
        call(name("torch._utils", "_rebuild_qtensor")),
        b"\x88",
        ORDERED,
    )
    yield Case(
        26,
        f"{box.label} quantized parameter",
        box.file(mapping(w=wrapped)),
        ("unsupported-tensor",),
    )


def _accepted(make: type[Box]) -> Iterator[Case]:
    """Cases 27, 32 and 39: unusual but valid files."""
    for device in ("cuda:7", "meta", "mps", "x" * 500):
        box = make()
        body = mapping(w=view(box.storage(location=device), *SHAPE))
        yield Case(27, f"{box.label} on {device[:9]}", box.file(body), tensors={"w": WEIGHT})
    box = make()
    enum = call(name("their_project", "Mode"), integer(1))
    config = name("their_project", "Config") + b")\x81" + mapping(mode=enum) + b"b"
    attributes = name("lightning.fabric", "AttributeDict") + b")\x81(" + text("lr") + config + b"u"
    body = mapping(
        state_dict=mapping(w=box.weight()),
        hyper_parameters=attributes,
        callbacks=b"}" + name("their_project", "Checkpoint") + mapping(best=config) + b"s",
        loops=b"](" + config + enum + b"e",
    )
    tensors = {"state_dict.w": WEIGHT}
    yield Case(32, f"{box.label} Lightning", box.file(body), tensors=tensors)
    box = make()
    held = mapping(
        state_dict=mapping(w=box.weight()), x=config[:-1] + b"(" + text("t") + box.weight() + b"ub"
    )
    yield Case(
        32, f"{box.label} tensor in a placeholder", box.file(held), tensors=tensors, warns=True
    )
    for label, value in {"NaN": np.nan, "infinity": -np.inf}.items():
        box = make()
        odd = np.array([[1, value], [2, value]], "<f4")
        body = mapping(w=view(box.storage(data=odd.tobytes()), *SHAPE))
        yield Case(39, f"{box.label} {label}", box.file(body), tensors={"w": odd}, warns=True)
