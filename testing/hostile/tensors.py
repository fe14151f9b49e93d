"""Hostile numbers in tensors and storages, unsupported kinds of tensors, and the legacy stream format."""

from typing import Any

import numpy as np

from testing.hostile.formats import TORCH, Legacy, Plain, Script, Zip, load
from testing.hostile.mutation import Edits, Mutation, Table
from testing.hostile.opcodes import (
    ORDERED,
    ORDERED_DICT,
    REBUILD,
    SYSTEM,
    WEIGHT,
    Storage,
    Weight,
    call,
    module,
    name,
)
from testing.hostile.pickles import WIDE

W = Weight()
UNTYPED = name("torch.storage", "UntypedStorage")
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


def _geometry(size: Any, stride: Any, offset: Any = 0) -> Edits:
    return Edits(size=size, stride=stride, offset=offset)


def _typed(dtype: str) -> Any:
    """Return two elements of some dtype in an untyped storage."""
    function = name("torch._utils", "_rebuild_tensor_v3")
    return call(
        function, Storage(kind=UNTYPED, numel=16), 0, (2,), (1,), False, ORDERED, name("torch", dtype)
    )


def _subclass(function: Any = REBUILD, kind: Any = b"ctorch.nn.parameter\nParameter\n") -> Any:
    """Return the call that rebuilds a tensor of a class, by a function."""
    inner = (Storage(), 0, (2,), (1,), None, ORDERED)
    return call(name("torch._tensor", "_rebuild_from_type_v2"), function, kind, inner, b"}")


# Values whose repr is deeper than Python's stack, or has 268 MB: error messages must not contain them.
UNPRINTABLE = {"deep": b"]" * 2_000 + b"a" * 1_999, "wide": WIDE}
UNPRINTABLE_PARTS = {
    f"{label} {part}": Edits({part: (odd, odd) if part in ("size", "stride") else odd})
    for label, odd in UNPRINTABLE.items()
    for part in ("size", "stride", "offset")
}
# Values that have no hash, or whose hash is deeper than the C stack.
UNHASHABLE = {"a list": b"]", "200,000 tuples": b")" + b"\x85" * 200_000}
MODE = call(name("their_project", "Mode"), 1)
CONFIG = module("their_project", "Config", mode=MODE)
WITH_TENSOR = [*CONFIG[:-1], b"(", "t", W, b"ub"]
LIGHTNING = {
    "state_dict": {"w": W},
    "hyper_parameters": [name("lightning.fabric", "AttributeDict"), b")\x81(", "lr", CONFIG, b"u"],
    "callbacks": [b"}", name("their_project", "Checkpoint"), {"best": CONFIG}, b"s"],
    "loops": [b"](", CONFIG, MODE, b"e"],
}
FIRST_REBUILD = call(name("torch._utils", "_rebuild_tensor"), Storage(), 0, (2, 2), (2, 1))
QUANTIZED = call(name("torch._utils", "_rebuild_qtensor"))
ODD = {str(value): np.array([[1, value], [2, value]], "<f4") for value in (np.nan, -np.inf)}

TABLE: Table = {
    Mutation(19, TORCH, "root.w.numel", "storage-size truncated tensor-bounds"): [
        *(3, 5, -1, 1 << 62, 1 << 100, True, None, 4.0)
    ],
    Mutation(19, TORCH, "root.w.data", "storage-size"): [WEIGHT.tobytes()[:12]],
    Mutation(20, TORCH, "root.w", "tensor-shape tensor-bounds"): {
        label: _geometry(size, stride, offset) for label, (offset, size, stride) in GEOMETRIES.items()
    },
    Mutation(20, TORCH, "root.w", "tensor-shape"): {
        "size a list": Edits(size=b"](K\x02K\x02e"),
        "size of floats": _geometry((4.0,), (1,)),
        "offset a text": Edits(offset="0"),
        "size True": Edits(size=(True, 2)),
    },
    # The stride of an axis of size one is unused and may be any number.
    Mutation(20, TORCH, "root.w", tensors={"w": WEIGHT[:, 1:].reshape(1, 2)}): {
        "a stride of 2^62": _geometry((1, 2), ((1 << 62) - 1, 2), 1)
    },
    Mutation(21, TORCH, "root.w", "tensor-budget"): {
        "stride 0, 2^31 x 2^20": _geometry((1 << 31, 1 << 20), (0, 0)),
        "stride 0, 2^62": _geometry((1 << 61,), (0,)),
        "stride 0, 16 MB of 4 bytes, 100 times": _geometry((1 << 22, 100), (0, 0)),
    },
    Mutation(21, TORCH, "root", "tensor-budget"): {
        "stride 0, 200 tensors of 16 MB": [b"](", *[Weight(size=(1 << 22,), stride=(0,))] * 201, b"e"]
    },
    Mutation(22, (Zip, Script, Legacy), "root", "storage-dtype storage-size"): {
        f"as float32 and {kind}": {"a": W, "b": Weight(kind=name("torch", kind), numel=numel)}
        for kind, numel in {"IntStorage": 4, "DoubleStorage": 2, "FloatStorage": 2}.items()
    },
    Mutation(22, (Zip, Script, Legacy), "", "storage-dtype"): {
        "as two dtypes": Edits(root={"a": _typed("uint16"), "b": _typed("float8_e5m2")}, width=1)
    },
    Mutation(23, TORCH, "root", tensors={"a": WEIGHT, "b": WEIGHT}): {
        "tied": {"a": W, "b": W},
        "one tensor, two names": {"a": [W, b"q\x00"], "b": b"h\x00"},
    },
    Mutation(24, TORCH, "root.w", "storage-key"): {
        f"key {key!r}": Edits(key=key, data=None)
        for key in ("../../x", "/etc/passwd", "", "0/../1", "٣", "0 ", "-1", "x", "1" * 40)
    },
    Mutation(25, TORCH, "root.w.data", "missing-storage"): [None],
    # In a pickle, a storage is a separate file of a declared length.
    Mutation(25, TORCH, "root.w", "pickle-malformed pickle-opcode storage-size"): {
        "short persistent id": [("storage",), b"Q"],
        "storage of no type": Edits(kind="x"),
        "untyped storage of no dtype": Edits(kind=UNTYPED, numel=16),
    },
    # Storage keys that resemble the expected ones.
    Mutation(25, Legacy, "keys", "missing-storage"): {"of two types": b"](K\x00X\1\0\0\0000e"},
    Mutation(26, TORCH, "root.w", "unsupported-tensor"): {
        "quantized": lambda w: call(name("torch._utils", "_rebuild_qtensor"), w, None),
        "of the future": lambda w: call(name("torch._utils", "_rebuild_tensor_v9"), w, None),
        "QInt8Storage": Edits(kind=name("torch", "QInt8Storage"), numel=16),
        "posix.system as storage type": Edits(kind=name("posix", "system")),
        "quantized parameter": call(name("torch._utils", "_rebuild_parameter"), QUANTIZED, True, ORDERED),
    },
    Mutation(26, TORCH, "root", "unsupported-tensor"): {"a number as a name": {4.0: W}},
    Mutation(10, TORCH, "root", "too-deep"): {"a name of 5,000 letters": {"x" * 5_000: W}},
    Mutation(10, TORCH, "root.w", "tensor-shape storage-key storage-size"): UNPRINTABLE_PARTS,
    Mutation(10, (Zip, Script, Legacy), "root.w.numel", "storage-size"): UNPRINTABLE,
    Mutation(10, (Zip, Script, Legacy), "root.w", "storage-key"): {
        f"{label} key": Edits(key=odd, data=None) for label, odd in UNPRINTABLE.items()
    },
    Mutation(10, Legacy, "version", "legacy-header"): UNPRINTABLE,
    Mutation(10, Legacy, "keys", "missing-storage"): UNPRINTABLE,
    Mutation(26, TORCH, "root.w", "unsupported-tensor pickle-malformed"): {
        **{f"class {label}": _subclass(kind=odd) for label, odd in UNHASHABLE.items()},
        **{f"function {label}": _subclass(function=odd) for label, odd in UNHASHABLE.items()},
    },
    Mutation(26, Zip, "root", "pickle-malformed foreign-weight"): {
        "a list as parameters": module("a", "Net", _parameters=b"]", _modules=b"}"),
        "a call as a parameter": module("a", "Net", _parameters={"w": SYSTEM}, _modules=b"}"),
    },
    Mutation(27, TORCH, "root.w.location"): ["cuda:7", "meta", "mps", "x" * 500],
    Mutation(30, Legacy, "magic", "legacy-header"): {"number": b"\x80\x02\x8a\x01\x07."},
    Mutation(30, Legacy, "magic", "trailing-bytes"): {"text": b"\x80\x02X\1\0\0\0x."},
    Mutation(30, Legacy, "version", "legacy-header"): [1002, "1"],
    Mutation(30, Legacy, "system", "legacy-header"): [None, b"}"],
    Mutation(30, Legacy, "keys", "missing-storage"): [[], ["0", "0"]],
    Mutation(30, Legacy, "numel", "storage-size"): [3, -1, 1 << 62],
    Mutation(30, Legacy, "root.w.data", "storage-size"): [WEIGHT.tobytes()[:-1]],
    Mutation(30, Legacy, "tail", "trailing-bytes"): [bytes(100)],
    Mutation(30, Legacy, "root.w.numel", "truncated"): {"4 TB announced": 1 << 40},
    Mutation(30, Legacy, "content", "truncated pickle-malformed"): {
        f"cut by {cut}": lambda raw, cut=cut: raw[:-cut] for cut in (1, 8, 15, 16, 17, 24, 40, 200)
    },
    Mutation(30, Plain, "root.w", "truncated legacy-header"): {
        "nested file cut": W.view(load(Legacy(Storage()).content[:-4])),
        "nested file of no storage": W.view(load(Legacy(None).content)),
    },
    Mutation(32, TORCH, "root"): {
        "a list of pairs and the first rebuild function": call(
            ORDERED_DICT, [b"](", ("w", FIRST_REBUILD), b"e"]
        )
    },
    Mutation(32, TORCH, "root", tensors={"state_dict.w": WEIGHT}): {"Lightning": LIGHTNING},
    Mutation(32, TORCH, "root", tensors={"state_dict.w": WEIGHT}, warns=True): {
        "tensor in a placeholder": {"state_dict": {"w": W}, "x": WITH_TENSOR}
    },
    Mutation(32, Zip, "root", warns=True): {
        label: module("a", "LSTM", _parameters={"w": W}, _modules=b"}", batch_first=True, dropout=rate)
        for label, rate in {"dropout 2": 2, "dropout 2^2000": 1 << 2000}.items()
    },
    Mutation(35, TORCH, "root.w", "tensor-shape"): {
        "[0, 2^60]": _geometry((0, 1 << 60), (1, 1)),
        "[2^31, 0, 2^31]": _geometry((1 << 31, 0, 1 << 31), (1, 1, 1)),
    },
    **{
        Mutation(39, TORCH, "root.w.data", tensors={"w": odd}, warns=True): {label: odd.tobytes()}
        for label, odd in ODD.items()
    },
}
