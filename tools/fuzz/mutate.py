"""File number `index` of the fuzzer: a valid file, some parts of which are edited, moved or replaced.

Each format has its own parts: entries and headers of an archive, opcodes of a pickle, values of a JSON text
or of a NumPy header. Replacements come from all valid files and from the hostile ones in `testing/hostile`.
"""

from __future__ import annotations

import io
import itertools
import json
import pickletools
import re
import struct
import zipfile
from collections import defaultdict
from collections.abc import Iterator, MutableSequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from random import Random
from typing import Any

from testing.checkpoints.assemble import ZipMember, archive, integer
from testing.checkpoints.case import Seed, seeds
from testing.hostile import archives, found, pickles, programs, tensors

# Exceptions of the standard library on input that has been mutated before. The tests raise the warning, which
# is pickletools' about an invalid escape sequence.
UNPARSED = (
    *(ValueError, LookupError, AttributeError, struct.error, zipfile.BadZipFile, RuntimeError, EOFError),
    DeprecationWarning,
)
# Boundary values for a reader's arithmetic: signs, integer widths, cache sizes and limits.
NUMBERS = tuple(
    (1 << bits) + near for bits in (0, 2, 6, 8, 12, 16, 31, 32, 48, 62, 63, 64) for near in (-1, 0)
)
TEXTS = ("", "0", "-1", "a.b", "../x", "/", "\n", "\0", "é", "٣", "weight_ih_l0", "bias_ih_l0_reverse")
# Values of JSON texts and of NumPy headers that no file of the corpus has.
VALUES = (
    *(b"null", b"true", b"-0", b"1e999", b"NaN", b"9" * 5000, b'"\\ud800"', b'""', b"[]", b"{}", b'"F4"'),
    *(b"[" * depth + b"]" * depth for depth in (50, 940, 980, 2000)),
    *(b"'%b'" % dtype for dtype in (b">f8", b"|b1", b"<c16", b"|O", b"<U3", b"<M8[s]", b"|V4", b"=i2")),
    *(b'"BF16"', b'"F8_E8M0"', b'"I64"', b'"U16"'),
)
ENTRIES = ("byteorder", "constants.pkl", "data.pkl", "data/0", "code/a.py", ".format_version", "b.npy")
HEAD = re.compile(rb"\x80[\x02-\x05]")
MARKED = pickletools.markobject
# The number of values that an opcode pops, True if it pops down to a mark, and the number that it pushes.
KIND = {
    op.code.encode("latin1"): (len(op.stack_before), MARKED in op.stack_before, len(op.stack_after))
    for op in pickletools.opcodes
}
# Opcodes with a string, and the width of its length.
LENGTHS = {b"X": 4, b"\x8c": 1, b"\x8d": 8, b"B": 4, b"C": 1, b"\x8e": 8, b"T": 4, b"U": 1}
# Stands for a literal in a JSON text, or is removed from it.
MARK = "@@"
# Files of the corpus with larger parts would make every mutant slow to read.
SMALL = 1 << 14


@dataclass(frozen=True)
class Mutant(Seed):
    """A mutated checkpoint, named for its seed, and the arguments for reading it."""

    options: dict[str, bool]


def mutant(seed: int, index: int, only: str = "") -> Mutant:
    """Return the mutant of a seed and an index.

    Args:
        seed: seed of the mutations.
        index: number of the file.
        only: mutate only the valid files whose name starts with this text.
    """
    rng = Random(f"{seed}-{index}")
    origin = rng.choice([origin for origin in seeds() if origin.name.startswith(only)])
    files = dict(origin.files)
    for name in rng.sample(list(files), min(len(files), rng.choice((1, 1, 1, 2)))):
        files[name] = mutate(rng, files[name])
    return Mutant(origin.name, files, origin.opened, {"check_crc": rng.random() < 0.8})


def mutate(rng: Random, raw: bytes) -> bytes:
    """Apply one to five edits, most of them to the parts of the format, recognized by its first bytes."""
    edits = rng.choice((1, 1, 1, 1, 2, 2, 3, 5))
    if raw.startswith(b"PK") and rng.random() < 0.85:
        with suppress(*UNPARSED):
            return edit_zip(rng, raw, edits)
    for _ in range(edits):
        structured = rng.random() < 0.85
        try:
            if structured and HEAD.match(raw):
                raw = edit_pickle(rng, raw)
            elif structured and raw.startswith((b"{", b"[")):
                raw = edit_json(rng, raw)
            elif structured and (raw.startswith(b"\x93NUMPY") or raw[8:9] == b"{"):
                raw = edit_header(rng, raw)
            else:
                raw = edit_bytes(rng, raw)
        except UNPARSED:
            raw = edit_bytes(rng, raw)
    return raw


def number(rng: Random, old: int) -> int:
    """Return a number near the old one or a special one; it may be negative or exceed any width."""
    near = (
        old + rng.choice((-8, -4, -1, 1, 4, 8)),
        old * rng.choice((-1, 0, 2, 3, 8)),
        old // rng.choice((2, 4)),
    )
    return rng.choice((*near, rng.choice(NUMBERS) * rng.choice((1, 1, -1)), rng.getrandbits(31)))


def fixed(value: int, width: int) -> bytes:
    """Return the number in `width` bytes, truncated if necessary."""
    return (value % (1 << 8 * width)).to_bytes(width, "little")


def text(rng: Random, old: str) -> str:
    """Return a string near the old one or a special one."""
    at, other = rng.randrange(len(old) + 1), rng.choice(TEXTS)
    return rng.choice((other, old[:at], old[at:], old[:at] + other + old[at:], old * 2, old[:2_000] * 99))


def edit_run(rng: Random, items: MutableSequence[Any]) -> None:
    """Delete, repeat or move a run of items."""
    start = rng.randrange(len(items) or 1)
    run = items[start : start + rng.choice((1, 1, 1, 2, 3, 8))]
    what = rng.randrange(3)
    if what != 0:
        del items[start : start + len(run)]
    for _ in range(0 if what == 1 else rng.choice((1, 1, 2, 9))):
        at = rng.randrange(len(items) + 1)
        items[at:at] = run


def edit_bytes(rng: Random, raw: bytes) -> bytes:
    """Apply one edit to plain bytes."""
    made = bytearray(raw or b"\0")
    at, what = rng.randrange(len(made)), rng.randrange(8)
    if what < 2:
        made[at] ^= 1 << rng.randrange(8)
    elif what < 5:
        width = rng.choice((1, 2, 4, 8))
        made[at : at + width] = fixed(number(rng, int.from_bytes(made[at : at + width], "little")), width)
    elif what == 5:
        made[at:at] = rng.choice((rng.randbytes(8), bytes(rng.choice((1, 64, 512)))))
    elif what == 6:
        del made[at:]
    else:
        edit_run(rng, made)
    return bytes(made)


@cache
def entries(raw: bytes) -> tuple[ZipMember, ...]:
    """Return the entries of an archive."""
    with zipfile.ZipFile(io.BytesIO(raw)) as opened:
        return tuple(ZipMember(i.filename, opened.read(i), i.compress_type) for i in opened.infolist())


def edit_zip(rng: Random, raw: bytes, edits: int) -> bytes:
    """Edit entries, headers or the directory; other checksums and sizes stay correct."""
    members, options = list(entries(raw)), {}
    for _ in range(edits):
        what = rng.randrange(20)
        if what == 0:
            options["end"] = rng.choice(list(archives.END_RECORDS.values()))
        elif what < 3:
            edit_run(rng, members)
        else:
            # The JSON texts of a program are few among its entries, and decide the most.
            (at,) = rng.choices(range(len(members)), [8 if m.data.startswith(b"{") else 1 for m in members])
            members[at] = _edited_entry(rng, members[at], what)
    return archive(members, before=rng.randbytes(rng.choice((0,) * 20 + (1, 8))), **options)


def _edited_entry(rng: Random, member: ZipMember, what: int) -> ZipMember:
    if what < 7:
        return replace(member, **rng.choice(list(archives.header_changes(member).values())))
    if what == 7:
        folder = member.name.partition("/")[0]
        name = rng.choice((text(rng, member.name), f"{folder}/{rng.choice(ENTRIES)}"))
        return replace(member, name=name[:9_000])
    return replace(member, data=mutate(rng, member.data))


def opcodes(raw: bytes) -> list[bytes]:
    """Split consecutive pickles into opcodes; the bytes after them form one part."""
    stream, starts = io.BytesIO(raw), []
    while HEAD.match(raw, stream.tell()):
        starts += [at for _, _, at in pickletools.genops(stream)]
    return [raw[a:b] for a, b in itertools.pairwise([*starts, stream.tell(), len(raw)])]


def small_parts(head: re.Pattern[bytes], *modules: Any) -> Iterator[bytes]:
    """Yield the small files and entries that start with `head`, of valid files and of hostile cases."""
    files = [raw for seed in seeds() for raw in seed.files.values()]
    files += [case.write for module in modules for case in module.cases() if isinstance(case.write, bytes)]
    for raw in files:
        parts = [raw]
        if raw.startswith(b"PK"):
            with suppress(*UNPARSED):
                parts = [member.data for member in entries(raw)]
        yield from (part for part in parts if head.match(part) and len(part) < SMALL)


@cache
def opcodes_by_kind() -> dict[Any, list[bytes]]:
    """Return the opcodes of the valid files and of the hostile pickles, and each code without an argument."""
    made = dict.fromkeys(KIND)
    for part in small_parts(HEAD, pickles, tensors, found):
        with suppress(*UNPARSED):
            made |= dict.fromkeys(opcodes(part)[:-1])
    by_kind = defaultdict(list)
    for opcode in made:
        by_kind[KIND[opcode[:1]]].append(opcode)
    return by_kind


def edit_pickle(rng: Random, raw: bytes) -> bytes:
    """Edit the opcodes: most edits keep the height of the stack, or change the argument of an opcode."""
    ops = opcodes(raw)
    what, at = rng.randrange(8), rng.randrange(len(ops))
    if what == 0:
        edit_run(rng, ops)
    elif what == 1:
        ops[at : at + rng.randrange(2)] = [rng.choice(rng.choice([*opcodes_by_kind().values()]))]
    elif what < 5:
        ops[at] = rng.choice(opcodes_by_kind()[KIND[ops[at][:1]]])
    else:
        codes = b"KMJ" if what == 5 else bytes(range(256))
        at = rng.choice([at for at, op in enumerate(ops) if len(op) > 1 and op[0] in codes])
        ops[at] = _changed_opcode(rng, ops[at])
    return b"".join(ops)


def _changed_opcode(rng: Random, op: bytes) -> bytes:
    """Return the opcode with another argument. The length of a string stays right, unless only it changes."""
    code, rest = op[:1], op[1:]
    if code in (b"K", b"M", b"J"):
        return integer(number(rng, int.from_bytes(rest, "little", signed=code == b"J")))
    width = LENGTHS.get(code)
    if width is None:
        return code + edit_bytes(rng, rest)
    body = rest[width:]
    if rng.random() < 0.1:
        return code + fixed(number(rng, len(body)), width) + body
    if code in b"X\x8c\x8d":
        body = text(rng, body.decode("utf-8", "replace")).encode("utf-8", "surrogatepass")
    else:
        body = mutate(rng, body)
    body = body[:99] if len(body) >= 1 << 8 * width else body
    return code + fixed(len(body), width) + body


def spots(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each dict or list in a JSON value with each of its keys."""
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from spots(value[key])


@cache
def json_values() -> tuple[str, ...]:
    """Return the small values in the JSON texts of all valid files and of the hostile programs."""
    made: dict[str, None] = {}
    for part in small_parts(re.compile(rb"\{"), programs):
        with suppress(*UNPARSED, RecursionError):
            made |= dict.fromkeys(json.dumps(container[key]) for container, key in spots(json.loads(part)))
    return tuple(value for value in made if len(value) < 512)


def edit_json(rng: Random, raw: bytes) -> bytes:
    """Replace, remove or repeat a value, or rename a key."""
    tree, literal = json.loads(raw), rng.choice(VALUES)
    container, key = rng.choice([*spots(tree)])
    value, what = container[key], rng.randrange(10)
    if what < 3:
        if what and isinstance(container, list):
            container.insert(key, value)
        elif what:
            # A mark is removed below, so that the first form repeats a key.
            container[rng.choice((key + MARK, rng.choice(TEXTS), rng.choice([*container])))] = value
        if what != 1:
            del container[key]
    elif what < 5:
        container[key] = json.loads(rng.choice(json_values()))
    elif what == 5 or value is None or isinstance(value, (bool, float, dict, list)):
        container[key] = MARK * 2
    elif isinstance(value, int):
        container[key] = number(rng, value)
    # The structure of arguments and results is JSON in a string.
    elif value.startswith("["):
        container[key] = edit_json(rng, value.encode()).decode()
    else:
        container[key] = text(rng, value)
    return (
        json.dumps(tree).encode().replace(b'"%b"' % (MARK * 2).encode(), literal).replace(MARK.encode(), b"")
    )


def edit_header(rng: Random, raw: bytes) -> bytes:
    """Edit the header of a safetensors file or a NumPy array. Only its length may be wrong."""
    layout, at = ("<Q", 0) if raw[8:9] == b"{" else ("<I" if raw[6] > 1 else "<H", 8)
    start = at + struct.calcsize(layout)
    (length,) = struct.unpack_from(layout, raw, at)
    header, data = raw[start : start + length], raw[start + length :]
    if rng.random() < 0.1:
        return raw[:at] + fixed(number(rng, length), start - at) + header + data
    if at == 0:
        header = edit_json(rng, header)
    else:
        word = rng.choice([*re.finditer(rb"'[^']*'|\w+|\([^)]*\)", header)])
        other = b"%d" % number(rng, int(word[0])) if word[0].isdigit() else rng.choice(VALUES)
        header = header[: word.start()] + other + header[word.end() :]
    return raw[:at] + fixed(len(header), start - at) + header + data
