"""Hostile pickles: forbidden calls, announced sizes, nesting."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from testing.checkpoints.assemble import (
    BOXES,
    GOOD,
    ORDERED,
    SYSTEM,
    Box,
    LegacyBox,
    call,
    integer,
    integers,
    mapping,
    name,
    pairs,
    sequence,
    text,
    view,
)
from testing.checkpoints.case import Case


def cases() -> Iterator[Case]:
    for box in BOXES:
        yield from _calls(box)
        yield from _opcodes(box)
        yield from _nesting(box)


def _calls(make: type[Box]) -> Iterator[Case]:
    """Cases 1 to 5: calls, names, state."""
    box = make()
    weight = box.weight()
    calls = {
        "os.system": SYSTEM,
        "eval": call(name("builtins", "eval"), text("__import__('os').system('touch PWNED')")),
        "exec": call(name("__builtin__", "exec"), text("import os")),
        "getattr": call(name("builtins", "getattr"), name("os", "system"), text("__call__")),
        "Popen": name("subprocess", "Popen") + sequence(text("touch PWNED")) + b"\x81",
        "NEWOBJ_EX": name("posix", "system") + sequence(text("touch PWNED")) + b"}\x92",
        "torch.load": call(name("torch.serialization", "load"), text("x")),
        "import": call(name("importlib", "import_module"), text("antigravity")),
    }
    for label, code in calls.items():
        yield box.case(1, f"{label} as a weight", mapping(weight_ih_l0=code), "foreign-weight")
        yield box.case(1, f"{label} as the root", code, "foreign-root")
        body = mapping(w=weight, config=code)
        yield box.case(1, f"{label} beside a weight", body, tensors=GOOD)
    shape = (integer(0), integers(2, 2), integers(2, 1))
    yield box.case(1, "storage is a call", mapping(w=view(SYSTEM, *shape)), "foreign-weight")
    parameter = call(name("torch._utils", "_rebuild_parameter"), SYSTEM, b"\x88", ORDERED)
    yield box.case(1, "parameter of a call", mapping(w=parameter), "foreign-weight")
    yield box.case(1, "call of a call", mapping(w=SYSTEM + sequence() + b"R"), "pickle-malformed")
    yield box.case(1, "call of a text", mapping(w=call(text("eval"))), "pickle-malformed")
    typed = call(
        name("torch._tensor", "_rebuild_from_type_v2"),
        name("posix", "system"),
        name("torch", "Tensor"),
        sequence(text("x")),
        b"N",
    )
    yield box.case(1, "rebuild function is os.system", mapping(w=typed), "pickle-malformed")

    dotted = text("os") + text("path.join") + b"\x93"
    yield box.case(2, "dotted STACK_GLOBAL", mapping(w=weight, x=dotted), "pickle-global")
    yield box.case(2, "dotted GLOBAL", mapping(w=weight, x=b"cos\npath.join\n"), "pickle-global")
    yield box.case(2, "number STACK_GLOBAL", mapping(x=b"K\0K\0\x93"), "pickle-global")
    yield box.case(2, "empty GLOBAL", mapping(x=b"c\n\n"), "pickle-global")
    hidden = text("os\n") + text("system") + b"\x93"
    yield box.case(2, "newline STACK_GLOBAL", mapping(x=hidden), "pickle-global")

    for label, code in {
        "INST": b"(" + text("x") + b"iposix\nsystem\n",
        "OBJ": b"(" + name("posix", "system") + text("x") + b"o",
        "EXT1": b"\x82\x01",
        "EXT2": b"\x83\x01\x00",
        "EXT4": b"\x84\x01\x00\x00\x00",
        "DUP": b"N2",
        "STRING": b"S'x'\n",
        "NEXT_BUFFER": b"\x97",
        "unknown": b"\xff",
    }.items():
        yield box.case(3, label, mapping(w=weight, x=code), "pickle-opcode")

    for label, code in {
        "a function": name("posix", "system"),
        "a rebuild": name("torch._utils", "_rebuild_tensor_v2"),
        "a class": name("collections", "OrderedDict"),
        "a storage type": name("torch", "FloatStorage"),
        "a dict": b"}",
        "a tuple": b")",
        "a text": text("x"),
    }.items():
        body = mapping(w=weight, x=code + mapping(__code__=text("x")) + b"b")
        yield box.case(4, f"BUILD on {label}", body, "pickle-build")
    twice = name("a", "B") + b")\x81}b}b"
    yield box.case(4, "BUILD twice", mapping(w=weight, x=twice), "pickle-build")

    for label, tail in {"cut": b"X\xff\xff", "garbage": b"\xff\xff", "no stop": b""}.items():
        raw = box.wrap(b"\x80\x02" + SYSTEM + tail)
        yield Case(5, f"{box.label} payload, {label}", raw, ("pickle-malformed", "pickle-opcode"))
    yield Case(5, f"{box.label} truncated", box.file(mapping(w=weight))[:-40], _ANY_END)


_ANY_END = ("pickle-malformed", "truncated", "zip-directory", "trailing-bytes")


def _opcodes(make: type[Box]) -> Iterator[Case]:
    """Cases 6 to 8 and 11: bytes after STOP, lengths beyond the file, duplicate keys."""
    box = make()
    weight = box.weight()
    good = mapping(w=weight)
    after = ("trailing-bytes", "pickle-malformed", "pickle-opcode", "legacy-header", "missing-storage")
    for label, tail in {"a byte": b"N", "a second pickle": b"\x80\x02" + SYSTEM + b"."}.items():
        yield Case(6, f"{box.label} {label} after STOP", box.file(good, stop=b"." + tail), after)
    if isinstance(box, LegacyBox):
        box.tail = b"\0"
        yield Case(6, "legacy byte after the storages", box.file(good), ("trailing-bytes",))
        box.tail = b""

    for label, put in {
        "LONG_BINPUT 2^31": b"r\x00\x00\x00\x80",
        "LONG_BINPUT 2^32-1": b"r\xff\xff\xff\xff",
        "PUT 2^70": b"p%d\n" % (1 << 70),
    }.items():
        body = mapping(w=weight, x=text("y") + put)
        yield box.case(7, f"{label}", body, tensors=GOOD)

    wide = struct.pack("<Q", 1 << 62)
    for label, code in {
        "BINUNICODE 4 GiB": b"X\xff\xff\xff\xff",
        "BINUNICODE8": b"\x8d" + wide,
        "BINBYTES 4 GiB": b"B\xff\xff\xff\xff",
        "BINBYTES8": b"\x8e" + wide,
        "BYTEARRAY8": b"\x96" + wide,
        "BINSTRING": b"T\xff\xff\xff\x7f",
        "FRAME": b"\x95" + wide,
        "LONG4": b"\x8b\xff\xff\xff\x7f",
        "LONG4 negative": b"\x8b\xff\xff\xff\xff",
        "a long line": b"I" + b"1" * 50_000 + b"\n",
        "an endless line": b"cos" + b"x" * 50_000,
        "get unset": b"h\x07",
        "no number": b"Ione\n",
        "a tuple of nothing": b"\x87",
        "no mark": b"u",
        "protocol 9": b"\x80\x09",
    }.items():
        yield box.case(8, label, mapping(w=weight, x=code), "pickle-malformed")
    for label, head in {"protocol 6": b"\x80\x06", "protocol 255": b"\x80\xff"}.items():
        yield Case(8, f"{box.label} {label}", box.file(good, head=head), ("pickle-malformed",))
    grow = b"](" + b"]" * 2_000_000 + b"e"
    yield box.case(8, "2,000,000 lists", mapping(x=grow), "pickle-budget")

    key = text("w")
    for label, body in {
        "SETITEMS": b"}(" + (key + weight) * 2 + b"u",
        "SETITEM": b"}" + (key + weight + b"s") * 2,
        "DICT": b"(" + (key + weight) * 2 + b"d",
        "OrderedDict": ORDERED + b"(" + (key + weight) * 2 + b"u",
        "pairs": call(name("collections", "OrderedDict"), b"](" + sequence(key, weight) * 2 + b"e"),
        "1 and True": b"}(K\x01N\x88Nu",
    }.items():
        yield box.case(11, label, body, "duplicate-key")
    joined = pairs([("a.w", weight), ("a", mapping(w=weight))])
    yield box.case(11, "joined names", joined, "duplicate-name")
    yield box.case(11, "1 and '1'", b"}(" + integer(1) + weight + text("1") + weight + b"u", "duplicate-name")


def _nesting(make: type[Box]) -> Iterator[Case]:
    """Cases 9 and 10: references that multiply, form cycles or nest deeply."""
    box = make()
    weight = box.weight()
    gets = [b"h" + bytes([i]) for i in range(28)]
    puts = [b"q" + bytes([i]) for i in range(29)]

    def levels(leaf: bytes, kind: str) -> bytes:
        """Return a tuple of the leaf and 28 levels, each of which holds the previous one twice."""
        forms = {"lists": b"](%b%be", "dicts": b"}(X\1\0\0\0a%bX\1\0\0\0b%bu", "tuples": b"%b%b\x86"}
        made = [forms[kind] % (get, get) for get in gets]
        return sequence(*(m + put for m, put in zip([leaf, *made], puts, strict=True)))

    for kind in ("lists", "dicts"):
        for leaf, inner in {"": b"N", " of tensors": weight}.items():
            codes = ("node-budget", "duplicate-name", "tensor-budget")
            yield box.case(9, f"28 levels of {kind}{leaf}", levels(inner, kind), *codes)
    yield box.case(9, "28 levels of tuples", levels(b"N", "tuples"), "node-budget")

    yield box.case(10, "list in itself", b"]q\x00h\x00a", "cycle")
    yield box.case(10, "dict in itself", b"}q\x00" + text("a") + b"h\x00s", "cycle")
    yield box.case(10, "loop of two", b"}q\x00" + text("a") + b"]q\x01h\x00as", "cycle")
    module = (
        name("a", "Net")
        + b")\x81q\x00"
        + mapping(_parameters=b"}", _buffers=b"}", _modules=mapping(child=b"h\x00"))
    )
    codes = ("cycle",) if box.label != "TorchScript" else ("foreign-root",)
    yield box.case(10, "module in itself", module + b"b", *codes)
    deep = 100_000
    for label, body in {
        "lists": b"]" * deep + b"a" * (deep - 1),
        "tuples": b")" + b"\x85" * deep,
        "dicts": (b"}" + text("a")) * deep + b"N" + b"s" * deep,
    }.items():
        yield box.case(10, f"100,000 {label}", body, "too-deep")
        inert = name("a", "B") + sequence(body) + b"R"
        body = mapping(w=weight, x=inert)
        yield box.case(10, f"100,000 {label} in a placeholder", body, tensors=GOOD)
    key = b"}" + b")" + b"\x85" * deep + b"Ns"
    yield box.case(10, "a key of 100,000 tuples", key, "pickle-malformed")
    yield box.case(10, "100,000 marks", b"(" * deep, "pickle-malformed")
