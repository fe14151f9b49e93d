"""Hostile pickles: forbidden calls and opcodes, lengths, keys that are set twice, nesting, and bombs.

A bomb repeats something that a reader does for every mention in the file: create an object, hash a key,
decode a string, build a name, open a storage.
"""

import struct
from typing import Any

import numpy as np

from testing.hostile.formats import TORCH, Legacy, Plain, Script, Zip, load
from testing.hostile.mutation import Edits, Mutation, Table
from testing.hostile.opcodes import (
    LOAD,
    ORDERED,
    ORDERED_DICT,
    REBUILD,
    SYSTEM,
    WEIGHT,
    Storage,
    Weight,
    call,
    encode,
    module,
    name,
    text,
)

POSIX = name("posix", "system")
CALLS = {
    "os.system": SYSTEM,
    "Popen": [name("subprocess", "Popen"), ("touch PWNED",), b"\x81"],
    "NEWOBJ_EX": [POSIX, ("touch PWNED",), b"}\x92"],
}
STATE = [{"__code__": "x"}, b"b"]
FAR = struct.pack("<Q", 1 << 62)
W = Weight()
ITEM = ["w", W]
DEEP = 100_000
NESTED = {
    "lists": b"]" * DEEP + b"a" * (DEEP - 1),
    "tuples": b")" + b"\x85" * DEEP,
    "dicts": (b"}" + text("a")) * DEEP + b"N" + b"s" * DEEP,
}

N = 300_000
# Takes more than half of the memory allowed for a small file.
LISTS = b"](" + b"]" * 270_000 + b"e"
# A few opcodes whose repr has 268 MB.
WIDE = text("x" * 65_000) + b"".join(
    b"r" + at + b"0(" + (b"j" + at) * 16 + b"t" for at in (b"\x00\1\0\0", b"\1\1\0\0", b"\2\1\0\0")
)
MANY_CALLS = [b"q\x010", (b"h\x00h\x01R" * N,)]
MANY_NAMES = dict.fromkeys(map(str, range(20_000)), b"h\x00")
MANY_VALUES = (b"h\x00" * N,)
LATIN1 = (WEIGHT.tobytes() * 5_000).decode("latin1")
NAN = struct.pack("<f", np.nan)
NANS = {str(i): np.array(np.nan, "<f4") for i in range(12_000)}
BUFFERS = [
    *(name("a", "B"), b")\x81q\x000h\x00}("),
    *("_parameters", b"}", "_buffers", b"}", "_modules", b"}"),
    *("_non_persistent_buffers_set", b"\x8f(" + b"h\x00" * 50_000 + b"\x90ub0"),
]


def _levels(leaf: Any, form: bytes) -> tuple[Any, ...]:
    """Return a tuple of the leaf and 28 levels, each of which holds the previous one twice."""
    gets = [b"h" + bytes([i]) for i in range(28)]
    made = [leaf, *(form % (get, get) for get in gets)]
    return tuple([level, b"q" + bytes([i])] for i, level in enumerate(made))


MEMBERS = {"_parameters": b"}", "_buffers": b"}", "_modules": {"child": b"h\x00"}}
MODULE_IN_ITSELF = [name("a", "Net"), b")\x81q\x00", MEMBERS, b"b"]

NESTED_STORAGES = load(Storage())
for _ in range(4):
    NESTED_STORAGES = load(encode([b"\x80\x02", NESTED_STORAGES, b"."]))

TABLE: Table = {
    Mutation(1, TORCH, "root", "foreign-root"): CALLS,
    Mutation(1, TORCH, "root", "foreign-weight"): {
        f"{label} as a weight": {"weight_ih_l0": code} for label, code in CALLS.items()
    },
    Mutation(1, TORCH, "root.config"): CALLS,
    Mutation(1, TORCH, "root.w", "foreign-weight"): {
        "storage is a call": Weight().view(SYSTEM),
        "parameter of a call": call(name("torch._utils", "_rebuild_parameter"), SYSTEM, True, ORDERED),
    },
    Mutation(1, TORCH, "root.w", "pickle-malformed"): {
        "call of a call": [SYSTEM, (), b"R"],
        "call with a text": [POSIX, "x", b"R"],
        "rebuild function is os.system": call(
            name("torch._tensor", "_rebuild_from_type_v2"), POSIX, name("torch", "Tensor"), ("x",), None
        ),
    },
    Mutation(2, TORCH, "root.x", "pickle-global"): {
        "dotted STACK_GLOBAL": ["os", "path.join", b"\x93"],
        "dotted GLOBAL": b"cos\npath.join\n",
        "number STACK_GLOBAL": b"K\0K\0\x93",
        "newline STACK_GLOBAL": ["os\n", "system", b"\x93"],
    },
    Mutation(3, TORCH, "root.x", "pickle-opcode"): {
        "INST": [b"(", "x", b"iposix\nsystem\n"],
        "OBJ": [b"(", POSIX, "x", b"o"],
        "EXT1": b"\x82\x01",
        "DUP": b"N2",
        "STRING": b"S'x'\n",
        "NEXT_BUFFER": b"\x97",
        "unknown": b"\xff",
    },
    Mutation(4, TORCH, "root.x", "pickle-build"): {
        "BUILD on a function": [POSIX, STATE],
        "BUILD on a class": [ORDERED_DICT, STATE],
        "BUILD on a dict": [b"}", STATE],
        "BUILD twice": [name("a", "B"), b")\x81}b}b"],
    },
    Mutation(5, TORCH, "", "pickle-malformed pickle-opcode"): {
        "payload, cut": Edits(root=SYSTEM, stop=b"X\xff\xff"),
        "payload, garbage": Edits(root=SYSTEM, stop=b"\xff\xff"),
        "payload, no stop": Edits(root=SYSTEM, stop=b""),
    },
    Mutation(5, TORCH, "content", "pickle-malformed truncated zip-directory trailing-bytes"): {
        "truncated": lambda raw: raw[:-40]
    },
    Mutation(
        6, TORCH, "stop", "trailing-bytes pickle-malformed pickle-opcode legacy-header missing-storage"
    ): {
        "a byte": b".N",
        "a second pickle": b".\x80\x02" + b"".join([POSIX, b"(", text("touch PWNED"), b"tR."]),
    },
    Mutation(7, TORCH, "root.x"): {
        "LONG_BINPUT 2^31": ["y", b"r\x00\x00\x00\x80"],
        "LONG_BINPUT 2^32-1": ["y", b"r\xff\xff\xff\xff"],
        "PUT 2^70": ["y", b"p%d\n" % (1 << 70)],
    },
    Mutation(8, TORCH, "root.x", "pickle-malformed"): {
        "BINUNICODE 4 GiB": b"X\xff\xff\xff\xff",
        "BINUNICODE8": b"\x8d" + FAR,
        "BINBYTES 4 GiB": b"B\xff\xff\xff\xff",
        "BINBYTES8": b"\x8e" + FAR,
        "BYTEARRAY8": b"\x96" + FAR,
        "BINSTRING": b"T\xff\xff\xff\x7f",
        "FRAME": b"\x95" + FAR,
        "LONG4": b"\x8b\xff\xff\xff\x7f",
        "LONG4 negative": b"\x8b\xff\xff\xff\xff",
        "a long line": b"I" + b"1" * 50_000 + b"\n",
        "an endless line": b"cos" + b"x" * 50_000,
        "get unset": b"h\x07",
        "no number": b"Ione\n",
        "a tuple of nothing": b"\x87",
        "no mark": b"u",
    },
    Mutation(8, TORCH, "root", "pickle-malformed"): {
        "memo of nothing": [b"q\x00", {"w": W}],
        "call of nothing": b")R",
    },
    Mutation(8, TORCH, "head", "pickle-malformed"): {"protocol 6": b"\x80\6", "protocol 255": b"\x80\xff"},
    Mutation(8, TORCH, "root", "pickle-budget"): {"2,000,000 lists": {"x": b"](" + b"]" * 2_000_000 + b"e"}},
    Mutation(8, Zip, "root", "pickle-budget"): {
        "dictionaries": (b"}K\x01Ns" * 2 * N,),
        "numbers": (b"J\0\0\1\1" * 5 * N,),
        "globals": (b"ca\nb\n" * 3 * N,),
        "placeholders": (name("a", "b"), b"q\x000", b"h\x00)R" * 2 * N),
        "refused tensors": (name("torch._utils", "_rebuild_x"), b"q\x000", b"h\x00)R" * 2 * N),
        "memo places": (b"".join(b"Nr" + struct.pack("<I", i) for i in range(3 * N)),),
        "texts that widen": (text("😀" + "x" * 65_000) * 300,),
    },
    Mutation(8, Legacy, "", "pickle-budget"): {
        "lists, and lists for keys": Edits({"root.x": LISTS}, keys=LISTS),
        "lists, and lists before the magic": Edits(
            {"root.x": LISTS}, magic=b"\x80\x02" + LISTS + b"r\0\0\0\x010" + Legacy.magic[2:]
        ),
    },
    Mutation(8, Script, "", "pickle-budget"): {
        "lists, and lists for constants": Edits(
            root=module("__torch__", "M", w=W, x=LISTS), constants=(LISTS,)
        )
    },
    Mutation(9, Zip, "root", "pickle-malformed"): {
        "a key of 1,000,000 elements": [b"(" + b"N" * 1_000_000 + b"tq\x000", (b"}h\x00Ns" * N,)]
    },
    Mutation(9, Zip, "root", "node-budget"): {
        "keys that are not names": [b"}(" + b"C\x01aN" * 100_000 + b"uq\x000", MANY_VALUES],
        "a module's set of buffers": [*BUFFERS, MANY_VALUES],
        "long names of tensors": [
            W,
            b"q\x000}",
            "k" * 3_900,
            dict.fromkeys(map(str, range(20_000)), b"h\x00"),
            b"s",
        ],
    },
    Mutation(9, Zip, "root", "pickle-budget"): {
        f"tensors of {len(ones)} dimensions": [
            *(REBUILD, b"q\x000", (Storage(), 0, ones, ones, False, ORDERED), *MANY_CALLS)
        ]
        for ones in ((1,) * 2, (1,) * 64)
    },
    Mutation(9, Zip, "root", tensors={}): {
        "a name of 60,000 letters": ["k" * 60_000, b"q\x000}h\x00Nsq\x010", (b"h\x01" * N,)]
    },
    Mutation(9, Plain, "root", tensors={}): {
        "one text, decoded again": [
            *(name("_codecs", "encode"), b"q\x000", LATIN1, "latin1", b"\x86", *MANY_CALLS)
        ],
        "one storage, opened again": [LOAD, b"q\x000", load(Storage())[1], *MANY_CALLS],
    },
    Mutation(9, TORCH, "root", "duplicate-key"): {"a wide key twice": b"}(" + (WIDE + b"N") * 2 + b"u"},
    Mutation(9, TORCH, "root", "node-budget duplicate-name tensor-budget"): {
        "28 levels of lists": _levels(None, b"](%b%be"),
        "28 levels of lists of tensors": _levels(W, b"](%b%be"),
        "28 levels of dicts": _levels(None, b"}(X\1\0\0\0a%bX\1\0\0\0b%bu"),
        "28 levels of dicts of tensors": _levels(W, b"}(X\1\0\0\0a%bX\1\0\0\0b%bu"),
    },
    Mutation(10, TORCH, "root", "cycle"): {
        "list in itself": b"]q\x00h\x00a",
        "dict in itself": [b"}q\x00", "a", b"h\x00s"],
        "loop of two": [b"}q\x00", "a", b"]q\x01h\x00as"],
    },
    Mutation(10, (Zip, Legacy, Plain), "root", "cycle"): {"module in itself": MODULE_IN_ITSELF},
    Mutation(10, Script, "root", "foreign-root"): {"module in itself": MODULE_IN_ITSELF},
    Mutation(10, TORCH, "root", "too-deep"): NESTED,
    Mutation(10, Plain, "root", "legacy-header pickle-malformed"): {
        "storages within storages": NESTED_STORAGES
    },
    Mutation(10, TORCH, "root.x"): {
        f"{kind} in a placeholder": [name("a", "B"), (root,), b"R"] for kind, root in NESTED.items()
    },
    Mutation(10, TORCH, "root", "pickle-malformed"): {
        "a key of 100,000 tuples": [b"}", NESTED["tuples"], b"Ns"],
        "100,000 marks": b"(" * DEEP,
    },
    Mutation(11, TORCH, "root", "duplicate-key"): {
        "SETITEMS": [b"}(", ITEM, ITEM, b"u"],
        "SETITEM": [b"}", ITEM, b"s", ITEM, b"s"],
        "DICT": [b"(", ITEM, ITEM, b"d"],
        "OrderedDict": [ORDERED, b"(", ITEM, ITEM, b"u"],
        "pairs": call(ORDERED_DICT, [b"](", ("w", W), ("w", W), b"e"]),
        "1 and True": b"}(K\x01N\x88Nu",
    },
    Mutation(11, TORCH, "root", "duplicate-name"): {
        "joined names": {"a.w": W, "a": {"w": W}},
        "1 and '1'": {1: W, "1": W},
    },
    Mutation(39, Zip, "root", tensors=NANS, warns=True): {
        "12,000 tensors of NaN": dict.fromkeys(NANS, Weight(numel=1, data=NAN, size=b")", stride=b")"))
    },
}
