"""Hostile pickles: forbidden calls, announced sizes, nesting."""

import struct
from collections.abc import Iterator

from testing.checkpoints.assemble import (
    BOXES,
    GEOMETRY,
    GOOD,
    ORDERED,
    SYSTEM,
    Box,
    call,
    integer,
    mapping,
    name,
    pairs,
    sequence,
    text,
    view,
)
from testing.checkpoints.case import FileCase, table


def cases() -> Iterator[FileCase]:
    for box in BOXES:
        yield from _calls(box())
        yield from _opcodes(box())
        yield from _lengths(box())
        yield from _duplicates(box())
        yield from _references(box())
        yield from _nesting(box())


def _calls(box: Box) -> Iterator[FileCase]:
    """Case 1: calls."""
    weight = box.weight()
    calls = {
        "os.system": SYSTEM,
        "Popen": name("subprocess", "Popen") + sequence(text("touch PWNED")) + b"\x81",
        "NEWOBJ_EX": name("posix", "system") + sequence(text("touch PWNED")) + b"}\x92",
    }
    for label, code in calls.items():
        yield box.case(1, f"{label} as a weight", mapping(weight_ih_l0=code), "foreign-weight")
        yield box.case(1, f"{label} as the root", code, "foreign-root")
        yield box.case(1, f"{label} beside a weight", mapping(w=weight, config=code), tensors=GOOD)
    parts = {
        "storage is a call": view(SYSTEM, *GEOMETRY),
        "parameter of a call": call(name("torch._utils", "_rebuild_parameter"), SYSTEM, b"\x88", ORDERED),
    }
    yield from box.table(1, {label: mapping(w=w) for label, w in parts.items()}, "foreign-weight")
    typed = name("torch._tensor", "_rebuild_from_type_v2")
    system = (name("posix", "system"), name("torch", "Tensor"), sequence(text("x")), b"N")
    malformed = {
        "call of a call": SYSTEM + sequence() + b"R",
        "call with a text": name("posix", "system") + text("x") + b"R",
        "rebuild function is os.system": call(typed, *system),
    }
    yield from box.table(1, {label: mapping(w=w) for label, w in malformed.items()}, "pickle-malformed")


def _opcodes(box: Box) -> Iterator[FileCase]:
    """Cases 2 to 6: names, forbidden opcodes, state, tails."""
    weight = box.weight()
    good = mapping(w=weight)
    names = {
        "dotted STACK_GLOBAL": text("os") + text("path.join") + b"\x93",
        "dotted GLOBAL": b"cos\npath.join\n",
        "number STACK_GLOBAL": b"K\0K\0\x93",
        "newline STACK_GLOBAL": text("os\n") + text("system") + b"\x93",
    }
    opcodes = {
        "INST": b"(" + text("x") + b"iposix\nsystem\n",
        "OBJ": b"(" + name("posix", "system") + text("x") + b"o",
        "EXT1": b"\x82\x01",
        "DUP": b"N2",
        "STRING": b"S'x'\n",
        "NEXT_BUFFER": b"\x97",
        "unknown": b"\xff",
    }
    targets = {
        "a function": name("posix", "system"),
        "a class": name("collections", "OrderedDict"),
        "a dict": b"}",
    }
    state = mapping(__code__=text("x")) + b"b"
    builds = {f"BUILD on {label}": code + state for label, code in targets.items()}
    builds["BUILD twice"] = name("a", "B") + b")\x81}b}b"
    for number, codes, error in (
        (2, names, "pickle-global"),
        (3, opcodes, "pickle-opcode"),
        (4, builds, "pickle-build"),
    ):
        yield from box.table(number, {k: mapping(w=weight, x=code) for k, code in codes.items()}, error)
    tails = {"cut": b"X\xff\xff", "garbage": b"\xff\xff", "no stop": b""}
    payloads = {label: box.wrap(b"\x80\x02" + SYSTEM + tail) for label, tail in tails.items()}
    yield from table(5, f"{box.label} payload,", payloads, "pickle-malformed", "pickle-opcode")
    ends = ("pickle-malformed", "truncated", "zip-directory", "trailing-bytes")
    yield from table(5, box.label, {"truncated": box.file(good)[:-40]}, *ends)
    after = {"a byte": b"N", "a second pickle": b"\x80\x02" + SYSTEM + b"."}
    files = {f"{label} after STOP": box.file(good, stop=b"." + tail) for label, tail in after.items()}
    ends = ("trailing-bytes", "pickle-malformed", "pickle-opcode", "legacy-header", "missing-storage")
    yield from table(6, box.label, files, *ends)


def _lengths(box: Box) -> Iterator[FileCase]:
    """Cases 7 and 8: memo indices and lengths beyond the file."""
    weight = box.weight()
    puts = {
        "LONG_BINPUT 2^31": b"r\x00\x00\x00\x80",
        "LONG_BINPUT 2^32-1": b"r\xff\xff\xff\xff",
        "PUT 2^70": b"p%d\n" % (1 << 70),
    }
    roots = {label: mapping(w=weight, x=text("y") + put) for label, put in puts.items()}
    yield from box.table(7, roots, tensors=GOOD)
    wide = struct.pack("<Q", 1 << 62)
    opcodes = {
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
    }
    roots = {label: mapping(w=weight, x=code) for label, code in opcodes.items()}
    roots["memo of nothing"] = b"q\x00" + mapping(w=weight)
    yield from box.table(8, roots, "pickle-malformed")
    files = {f"protocol {n}": box.file(mapping(w=weight), head=bytes([128, n])) for n in (6, 255)}
    yield from table(8, box.label, files, "pickle-malformed")
    yield box.case(8, "2,000,000 lists", mapping(x=b"](" + b"]" * 2_000_000 + b"e"), "pickle-budget")


def _duplicates(box: Box) -> Iterator[FileCase]:
    """Case 11: keys that are set twice."""
    weight = box.weight()
    item = text("w") + weight
    roots = {
        "SETITEMS": b"}(" + item * 2 + b"u",
        "SETITEM": b"}" + (item + b"s") * 2,
        "DICT": b"(" + item * 2 + b"d",
        "OrderedDict": ORDERED + b"(" + item * 2 + b"u",
        "pairs": call(name("collections", "OrderedDict"), b"](" + sequence(item) * 2 + b"e"),
        "1 and True": b"}(K\x01N\x88Nu",
    }
    yield from box.table(11, roots, "duplicate-key")
    roots = {
        "joined names": pairs([("a.w", weight), ("a", mapping(w=weight))]),
        "1 and '1'": b"}(" + integer(1) + weight + text("1") + weight + b"u",
    }
    yield from box.table(11, roots, "duplicate-name")


def _references(box: Box) -> Iterator[FileCase]:
    """Case 9 and 10: references that multiply or form cycles."""
    weight = box.weight()
    gets = [b"h" + bytes([i]) for i in range(28)]
    puts = [b"q" + bytes([i]) for i in range(29)]

    def levels(leaf: bytes, form: bytes) -> bytes:
        """Return a tuple of the leaf and 28 levels, each of which holds the previous one twice."""
        made = [leaf, *(form % (get, get) for get in gets)]
        return sequence(*(m + put for m, put in zip(made, puts, strict=True)))

    forms = {"lists": b"](%b%be", "dicts": b"}(X\1\0\0\0a%bX\1\0\0\0b%bu"}
    for kind, form in forms.items():
        roots = {
            f"28 levels of {kind}": levels(b"N", form),
            f"28 levels of {kind} of tensors": levels(weight, form),
        }
        yield from box.table(9, roots, "node-budget", "duplicate-name", "tensor-budget")
    roots = {
        "list in itself": b"]q\x00h\x00a",
        "dict in itself": b"}q\x00" + text("a") + b"h\x00s",
        "loop of two": b"}q\x00" + text("a") + b"]q\x01h\x00as",
    }
    yield from box.table(10, roots, "cycle")
    members = mapping(_parameters=b"}", _buffers=b"}", _modules=mapping(child=b"h\x00"))
    code = "cycle" if box.label != "TorchScript" else "foreign-root"
    yield box.case(10, "module in itself", name("a", "Net") + b")\x81q\x00" + members + b"b", code)


def _nesting(box: Box) -> Iterator[FileCase]:
    """Case 10: values nested deeply."""
    weight = box.weight()
    deep = 100_000
    roots = {
        "100,000 lists": b"]" * deep + b"a" * (deep - 1),
        "100,000 tuples": b")" + b"\x85" * deep,
        "100,000 dicts": (b"}" + text("a")) * deep + b"N" + b"s" * deep,
    }
    yield from box.table(10, roots, "too-deep")
    inert = {f"{k} in a placeholder": name("a", "B") + sequence(root) + b"R" for k, root in roots.items()}
    yield from box.table(10, {k: mapping(w=weight, x=x) for k, x in inert.items()}, tensors=GOOD)
    roots = {"a key of 100,000 tuples": b"}" + b")" + b"\x85" * deep + b"Ns", "100,000 marks": b"(" * deep}
    yield from box.table(10, roots, "pickle-malformed")
