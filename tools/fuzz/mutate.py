"""File number `index` of the fuzzer: a valid file, some parts of which are edited, moved or replaced.

Each format has its own parts: entries and headers of an archive, values and opcodes of a pickle, values
of a JSON text or of a NumPy header. Replacements come from all valid files and from the hostile ones in
`testing/hostile`.
"""

from __future__ import annotations

import io
import itertools
import json
import pickletools
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, MutableSequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from random import Random
from typing import Any

from testing.checkpoints.assemble import ZipMember, archive, integer
from testing.checkpoints.case import Seed, seeds
from testing.hostile import archives, found, pickles, programs, tensors

# Exceptions of the standard library on input that has been mutated before.
UNPARSED = (
    *(ValueError, LookupError, OverflowError, RecursionError, AttributeError, struct.error),
    *(zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error),
)
# Boundary values for a reader's arithmetic: signs, integer widths, cache sizes and limits.
NUMBERS = (
    *(0, 1, 2, 3, 4, 7, 8, 16, 63, 64, 65, 127, 128, 255, 256, 4095, 4096, 65535, 65536),
    *(1 << 20, 1 << 23, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 40, 1 << 48),
    *(1 << 60, (1 << 62) - 1, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1 << 64),
)
TEXTS = (
    *("", "0", "1", "-1", "a", "a.b", "..", "../x", "/", "\\", "\n", "\0", "é", "\ud800", "٣"),
    *("weight_ih_l0", "weight_hh_l1", "bias_ih_l0_reverse", "weight_hr_l0", "weight_hh"),
)
# Values of JSON texts and of NumPy headers that no file of the corpus has.
VALUES = (
    *(b"null", b"true", b"-0", b"1.0", b"1e999", b"NaN", b"9" * 5000, b'"\\ud800"', b'""', b"[]", b"{}"),
    *(b"[" * depth + b"]" * depth for depth in (50, 900, 940, 960, 980, 2000)),
    *(
        b"'%b'" % dtype
        for dtype in (b"<f4", b">f8", b"|b1", b"<c16", b"|O", b"<U3", b"<M8[s]", b"|V4", b"=i2")
    ),
    *(b'"F32"', b'"BF16"', b'"F8_E8M0"', b'"F4"', b'"I64"', b'"U16"', b'"__metadata__"', b'"weight_map"'),
)
ENTRIES = ("byteorder", "constants.pkl", "data.pkl", "data/0", "code/a.py", ".format_version", "b.npy")
HEAD = re.compile(rb"\x80[\x02-\x05]")
# Opcodes with a string, and the width of its length.
LENGTHS = {b"X": 4, b"\x8c": 1, b"\x8d": 8, b"B": 4, b"C": 1, b"\x8e": 8, b"T": 4, b"U": 1}
# A key with its colon, a string, a bracket, a comma, or a scalar.
TOKEN = re.compile(
    rb"""((?:"(?:[^"\\]|\\.)*"|'[^']*')(?:\s*:\s*)?|[][{}()]|,\s*|[^][{}(),:\s"']+|\s+|.)""", re.DOTALL
)
# Files of the corpus with larger parts would make every mutant slow to read.
SMALL = 1 << 14


@dataclass(frozen=True)
class Mutant(Seed):
    """A mutated checkpoint, named for its seed, and the arguments for reading it."""

    options: dict[str, bool]


def mutant(seed: int, index: int, only: str = "") -> Mutant:
    """Return the mutant of a seed and an index, the same on every machine.

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
    """Apply one to five edits, most of them at the level of the format."""
    edits = rng.choice((1, 1, 1, 1, 2, 2, 3, 5))
    if raw in _archives() and rng.random() < 0.85:
        with suppress(*UNPARSED):
            return edit_zip(rng, raw, edits)
    for _ in range(edits):
        raw = _edited(rng, raw)
    return raw


def _edited(rng: Random, raw: bytes) -> bytes:
    edit = _editor(raw)
    if edit is not None and rng.random() < 0.85:
        with suppress(*UNPARSED):
            return edit(rng, raw)
    return edit_bytes(rng, raw)


def _editor(raw: bytes) -> Callable[[Random, bytes], bytes] | None:
    """Return the editor for the format, recognized by its first bytes as in the reader."""
    if HEAD.match(raw):
        return edit_pickle
    if raw.startswith((b"{", b"[")):
        return edit_text
    if raw.startswith(b"\x93NUMPY") or raw[8:9] == b"{":
        return edit_header
    return None


# -- numbers, strings and bytes ------------------------------------------------------------------


def number(rng: Random, old: int) -> int:
    """Return a number near the old one or a special one; it may be negative or exceed any width."""
    return rng.choice(
        (
            old + rng.choice((-8, -4, -2, -1, 1, 2, 4, 8)),
            old * rng.choice((-1, 0, 2, 3, 4, 8)),
            old // rng.choice((2, 4, 8)),
            rng.choice(NUMBERS) * rng.choice((1, 1, -1)) + rng.choice((-1, 0, 0, 1)),
            rng.getrandbits(rng.choice((3, 8, 31, 64))),
        )
    )


def fixed(value: int, width: int) -> bytes:
    """Return the number in `width` bytes, truncated if necessary."""
    return (value % (1 << 8 * width)).to_bytes(width, "little")


def text(rng: Random, old: str) -> str:
    """Return a string near the old one or a special one."""
    at = rng.randrange(len(old) + 1)
    other = rng.choice(TEXTS)
    return rng.choice(
        (other, old[:at], old[at:], old[:at] + other + old[at:], old[:-1] + other, old * 2, old[:2_000] * 99)
    )


def edit_sequence(rng: Random, items: MutableSequence[Any]) -> None:
    """Delete, repeat, swap or move items or runs of items."""
    if not items:
        return
    start = rng.randrange(len(items))
    run = items[start : start + rng.choice((1, 1, 1, 2, 3, 8))]
    what = rng.randrange(4)
    if what in (0, 3):
        del items[start : start + len(run)]
    if what in (1, 3):
        at = rng.randrange(len(items) + 1)
        for _ in range(rng.choice((1, 1, 2, 9)) if what == 1 else 1):
            items[at:at] = run
    if what == 2:
        other = rng.randrange(len(items))
        items[start], items[other] = items[other], items[start]


def edit_bytes(rng: Random, raw: bytes) -> bytes:
    """Apply one edit to plain bytes."""
    made = bytearray(raw or b"\0")
    at = rng.randrange(len(made))
    what = rng.randrange(10)
    if what < 2:
        made[at] ^= 1 << rng.randrange(8)
    elif what < 4:
        made[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    elif what < 7:
        width = rng.choice((1, 2, 4, 8))
        made[at : at + width] = fixed(number(rng, int.from_bytes(made[at : at + width], "little")), width)
    elif what == 7:
        made[at:at] = rng.choice((rng.randbytes(1), rng.randbytes(8), bytes(rng.choice((1, 64, 512)))))
    elif what == 8:
        del made[at:]
    else:
        edit_sequence(rng, made)
    return bytes(made)


# -- archives ------------------------------------------------------------------------------------


@cache
def _entries(raw: bytes) -> tuple[tuple[str, bytes, int], ...]:
    with zipfile.ZipFile(io.BytesIO(raw)) as opened:
        return tuple((i.filename, opened.read(i), i.compress_type) for i in opened.infolist())


@cache
def _archives() -> frozenset[bytes]:
    """Return the valid archives, and those within them. Python's releases differ in the others they open."""
    whole = [raw for seed in seeds() for raw in seed.files.values() if raw.startswith(b"PK")]
    inner = [data for raw in whole for _, data, _ in _entries(raw) if data.startswith(b"PK")]
    return frozenset(whole + inner)


def edit_zip(rng: Random, raw: bytes, edits: int) -> bytes:
    """Edit entries, headers or the directory; other checksums and sizes stay correct."""
    members = [ZipMember(*entry) for entry in _entries(raw)]
    options: dict[str, Any] = {}
    for _ in range(edits):
        what = rng.randrange(20)
        if not members or what == 0:
            options["end"] = rng.choice(list(archives.END_RECORDS.values()))
        elif what == 1:
            options["before"] = rng.randbytes(rng.randrange(9))
        elif what < 4:
            edit_sequence(rng, members)
        else:
            # The JSON texts of a program are few among its entries, and decide the most.
            (at,) = rng.choices(range(len(members)), [8 if m.data.startswith(b"{") else 1 for m in members])
            members[at] = _edited_entry(rng, members[at], what)
    return archive(members, **options)


def _edited_entry(rng: Random, member: ZipMember, what: int) -> ZipMember:
    if what < 7:
        return replace(member, **rng.choice(list(archives.header_changes(member).values())))
    if what == 7:
        field = rng.choice(("crc", "size", "compressed", "offset"))
        return replace(member, **{field: number(rng, len(member.data)) % (1 << 32)})
    if what == 8:
        folder = member.name.partition("/")[0]
        name = rng.choice((text(rng, member.name), f"{folder}/{rng.choice(ENTRIES)}"))
        return replace(member, name=name.encode("utf-8", "replace").decode()[:9_000])
    return replace(member, data=mutate(rng, member.data))


# -- pickles -------------------------------------------------------------------------------------


@lru_cache(2000)
def _opcodes(raw: bytes) -> tuple[tuple[pickletools.OpcodeInfo | None, bytes], ...]:
    """Split consecutive pickles into opcodes; bytes between pickles form one part each."""
    parts: list[tuple[pickletools.OpcodeInfo | None, bytes]] = []
    position = 0
    while position < len(raw):
        if HEAD.match(raw, position):
            with warnings.catch_warnings():
                # Of invalid escapes in strings.
                warnings.simplefilter("ignore")
                ops = [(op, position + (at or 0)) for op, _, at in pickletools.genops(raw[position:])]
            starts = [*(start for _, start in ops), ops[-1][1] + 1]
            parts += [(op, raw[a:b]) for (op, _), (a, b) in zip(ops, itertools.pairwise(starts), strict=True)]
            position = starts[-1]
        else:
            match = HEAD.search(raw, position)
            stop = match.start() if match else len(raw)
            parts.append((None, raw[position:stop]))
            position = stop
    return tuple(parts)


@lru_cache(2000)
def _value_runs(raw: bytes) -> tuple[tuple[int, int], ...]:
    """Return start and end of every run of opcodes that pushes one value and pops none."""
    runs: list[tuple[int, int]] = []
    # The first opcode of each value on the stack.
    stack: list[int] = []
    marks: list[int] = []
    for at, (op, _) in enumerate(_opcodes(raw)):
        if op is None or op.name in ("PROTO", "STOP"):
            stack, marks = [], []
            continue
        start, pops = at, len(op.stack_before)
        if op.name == "MARK":
            marks.append(len(stack))
        elif pickletools.markobject in op.stack_before:
            pops = len(stack) - marks.pop() + op.stack_before.index(pickletools.markobject)
        for _ in range(pops):
            start = stack.pop()
        if op.stack_after:
            stack += [start] * len(op.stack_after)
            runs.append((start, at + 1))
    return tuple(runs)


@cache
def values() -> tuple[bytes, ...]:
    """Return every opcode, and every value of the valid files and of the hostile pickles."""
    made = dict.fromkeys(op.code.encode("latin1") for op in pickletools.opcodes)
    for part in _parts(HEAD, pickles, tensors, found):
        try:
            ops, runs = _opcodes(part), _value_runs(part)
        except UNPARSED:
            continue
        made |= dict.fromkeys(b"".join(op for _, op in ops[start:stop]) for start, stop in runs)
    return tuple(made)


def _parts(head: re.Pattern[bytes], *modules: Any) -> Iterator[bytes]:
    """Yield the small files and entries that start with `head`, of valid files and of hostile cases."""
    files = [raw for seed in seeds() for raw in seed.files.values()]
    files += [case.write for module in modules for case in module.cases() if isinstance(case.write, bytes)]
    for raw in files:
        parts = [raw]
        if raw.startswith(b"PK"):
            with suppress(*UNPARSED):
                parts = [data for _, data, _ in _entries(raw)]
        yield from (part for part in parts if head.match(part) and len(part) < SMALL)


def edit_pickle(rng: Random, raw: bytes) -> bytes:
    """Edit the opcodes: most edits replace a value, or the argument of an opcode."""
    ops = [op for _, op in _opcodes(raw)]
    what = rng.randrange(8)
    if what == 0:
        edit_sequence(rng, ops)
    elif what == 1:
        at = rng.randrange(len(ops) + 1)
        ops[at : at + rng.randrange(2)] = [rng.choice(values())]
    elif what < 5:
        start, stop = rng.choice(_value_runs(raw))
        ops[start:stop] = [rng.choice(values())]
    else:
        codes = b"KMJ" if what == 5 else bytes(range(256))
        at = rng.choice([at for at, op in enumerate(ops) if len(op) > 1 and op[0] in codes])
        ops[at] = _changed(rng, ops[at])
    return b"".join(ops)


def _changed(rng: Random, op: bytes) -> bytes:
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


# -- texts ---------------------------------------------------------------------------------------


@cache
def words() -> tuple[bytes, ...]:
    """Return the values of the JSON texts of all valid files and of the hostile programs."""
    made = dict.fromkeys(VALUES)
    for part in _parts(re.compile(rb"\{"), programs):
        tokens = TOKEN.findall(part)
        with suppress(*UNPARSED):
            values = (b"".join(tokens[start:stop]) for start, stop in _text_values(tokens))
            made |= dict.fromkeys(value for value in values if len(value) < 512)
    return tuple(made)


def _text_values(tokens: list[bytes]) -> list[tuple[int, int]]:
    """Return start and end of every scalar and of every pair of brackets."""
    found, opened = [], []
    for at, token in enumerate(tokens):
        if token in (b"[", b"{", b"("):
            opened.append(at)
        elif token in (b"]", b"}", b")"):
            found.append((opened.pop(), at + 1))
        elif not _is_key(token) and not token.isspace() and token.strip() != b",":
            found.append((at, at + 1))
    return found


def _is_key(token: bytes) -> bool:
    return token.rstrip().endswith(b":")


def edit_text(rng: Random, raw: bytes) -> bytes:
    """Replace, remove or repeat a value, or rename a key."""
    tokens = TOKEN.findall(raw)
    start, stop = rng.choice(_text_values(tokens))
    named = start - 1 if start and _is_key(tokens[start - 1]) else start
    what = rng.randrange(10)
    if what == 0:
        edit_sequence(rng, tokens)
    elif what == 1:
        tokens[named:stop] = [*tokens[named:stop], b",", *tokens[named:stop]]
    elif what == 2:
        del tokens[named : stop + (b",".join(tokens[stop : stop + 1]).startswith(b","))]
    elif what == 3 and named < start:
        tokens[named] = rng.choice([*filter(_is_key, tokens), json.dumps(rng.choice(TEXTS)).encode() + b":"])
    elif what < 6:
        tokens[start:stop] = [rng.choice(words())]
    else:
        tokens[start:stop] = [_changed_value(rng, b"".join(tokens[start:stop]))]
    return b"".join(tokens)


def _changed_value(rng: Random, old: bytes) -> bytes:
    if old.isdigit():
        return b"%d" % number(rng, int(old))
    if not old.startswith(b'"'):
        return rng.choice(words())
    content = json.loads(old)
    # The structure of arguments and results is JSON in a string.
    if content.startswith("["):
        content = edit_text(rng, content.encode()).decode("utf-8", "replace")
    else:
        content = text(rng, content)
    return json.dumps(content).encode()


def edit_header(rng: Random, raw: bytes) -> bytes:
    """Edit the header of a safetensors file or a NumPy array. Only its length may be wrong."""
    layout, at = ("<Q", 0) if raw[8:9] == b"{" else ("<I" if raw[6] > 1 else "<H", 8)
    start = at + struct.calcsize(layout)
    (length,) = struct.unpack_from(layout, raw, at)
    header, data = raw[start : start + length], raw[start + length :]
    if rng.random() < 0.1:
        return raw[:at] + fixed(number(rng, length), start - at) + header + data
    header = edit_text(rng, header)
    return raw[:at] + fixed(len(header), start - at) + header + data
