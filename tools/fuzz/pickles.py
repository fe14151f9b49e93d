"""Mutations of pickles, opcode by opcode. Bytes between pickles are edited as plain bytes."""

from __future__ import annotations

import pickletools
import re
import struct
from collections.abc import Callable
from functools import lru_cache
from random import Random

from jaxlstm_converters.checkpoint.pickle.known_globals import KNOWN_GLOBALS
from testing.checkpoints.assemble import BOXES, call, integer, integers, name, sequence, view
from testing.checkpoints.assemble import text as text_op
from testing.checkpoints.seeds import seeds
from tools.fuzz.plain_bytes import Mutate, edit_bytes, edit_sequence, fixed, number, text

HEAD = re.compile(rb"\x80[\x02-\x05]")
MEMO = {b"q": 1, b"r": 4, b"h": 1, b"j": 4}
INTEGERS = {b"K": ("<B", 1), b"M": ("<H", 2), b"J": ("<i", 4)}
LENGTHS = {b"X": 4, b"\x8c": 1, b"\x8d": 8, b"B": 4, b"C": 1, b"\x8e": 8, b"T": 4, b"U": 1}
# Opcodes that push a value and pop none.
VALUES = b"N\x88\x89KMJG\x8aX\x8cBCU)]}"
FOREIGN = [("posix", "system"), ("builtins", "eval"), ("builtins", "bytes"), ("numpy", "ndarray")]
FOREIGN += [("torch._utils", "_rebuild_qtensor"), ("torch.nn.parameter", "Parameter")]
FOREIGN += [("torch._tensor", "Tensor"), ("torch", "Size"), ("torch", "ScriptObject")]
GLOBALS = [name(*pair) for pair in [*KNOWN_GLOBALS, *FOREIGN]]


@lru_cache(2000)
def parse(raw: bytes) -> tuple[bytes, ...]:
    """Split consecutive pickles into opcodes; bytes between pickles form one part each."""
    parts: list[bytes] = []
    position = 0
    while position < len(raw):
        if HEAD.match(raw, position):
            starts = [position + (at or 0) for _, _, at in pickletools.genops(raw[position:])]
            stop = starts[-1] + 1
            ends = [*starts[1:], stop]
            parts += [raw[a:b] for a, b in zip(starts, ends, strict=True)]
        else:
            found = HEAD.search(raw, position)
            stop = found.start() if found else len(raw)
            parts.append(raw[position:stop])
        position = stop
    return tuple(parts)


@lru_cache(2000)
def pool() -> tuple[bytes, ...]:
    """Return every opcode of the seeds that are plain pickles, and the opcodes that no seed has."""
    pickles = [f for seed in seeds() for f in seed.files.values() if HEAD.match(f)]
    found = dict.fromkeys(op for raw in pickles for op in parse(raw) if len(op) < 64)
    return (*found, *GLOBALS, *(bytes([op.code.encode("latin1")[0]]) for op in pickletools.opcodes))


def mutate_pickle(rng: Random, raw: bytes, edits: int, mutate: Mutate) -> bytes:
    """Edit the opcodes; `mutate` edits embedded data."""
    ops = list(parse(raw))
    for _ in range(edits):
        rng.choice(_EDITS)(rng, ops, mutate)
    return b"".join(ops)


def _order(rng: Random, ops: list[bytes], mutate: Mutate) -> None:
    edit_sequence(rng, ops)


def _foreign_op(rng: Random, ops: list[bytes], mutate: Mutate) -> None:
    at = rng.randrange(len(ops) + 1)
    ops[at : at + rng.randrange(2)] = [rng.choice(pool())]


def _argument(rng: Random, ops: list[bytes], mutate: Mutate) -> None:
    """Change the argument of an opcode."""
    _change_one(rng, ops, mutate, [at for at, op in enumerate(ops) if len(op) > 1])


def _number(rng: Random, ops: list[bytes], mutate: Mutate) -> None:
    """Change a size, stride, offset or number of elements."""
    _change_one(rng, ops, mutate, [at for at, op in enumerate(ops) if op[:1] in INTEGERS])


def _change_one(rng: Random, ops: list[bytes], mutate: Mutate, places: list[int]) -> None:
    if places:
        at = rng.choice(places)
        ops[at] = changed(rng, ops[at], mutate)


def _value(rng: Random, ops: list[bytes], mutate: Mutate) -> None:
    """Replace a value by one of another kind that keeps the stack balanced."""
    places = [at for at, op in enumerate(ops) if op[:1] in VALUES]
    if places:
        ops[rng.choice(places)] = value(rng)


_EDITS = (_order, _foreign_op, _argument, _argument, _number, _number, _value, _value)


def changed(rng: Random, op: bytes, mutate: Mutate) -> bytes:
    """Return the opcode with another argument."""
    code, rest = op[:1], op[1:]
    if code in INTEGERS:
        made = number(rng, struct.unpack(INTEGERS[code][0], rest)[0])
        return integer(made) if rng.random() < 0.9 else code + fixed(made, INTEGERS[code][1])
    if code == b"c":
        return rng.choice(GLOBALS) if rng.random() < 0.8 else b"c" + edit_bytes(rng, rest)
    if code in MEMO:
        made = number(rng, int.from_bytes(rest, "little")) if rng.random() < 0.2 else _near(rng)
        return code + fixed(made, MEMO[code])
    if code in LENGTHS:
        return _long(rng, code, rest, mutate)
    return code + edit_bytes(rng, rest) if code.isalpha() or code > b"\x7f" else mutate(rng, op)


def _near(rng: Random) -> int:
    return rng.randrange(rng.choice((8, 64)))


def _long(rng: Random, code: bytes, rest: bytes, mutate: Mutate) -> bytes:
    """Change the content of a string, or its length field without changing the content."""
    width = LENGTHS[code]
    body = rest[width:]
    if rng.random() < 0.1:
        return code + fixed(number(rng, len(body)), width) + body
    if code in b"X\x8c\x8d":
        body = text(rng, body.decode("utf-8", "replace")).encode("utf-8", "surrogatepass")
    else:
        body = mutate(rng, body)
    if len(body) >= 1 << 8 * width:
        body = body[:99]
    return code + fixed(len(body), width) + body


def value(rng: Random) -> bytes:
    """Return opcodes that push one value: scalar, nested, shared, a tensor or unusual."""
    depth = rng.choice((1, 3, 15, 28, 150, 250))
    if rng.random() < 0.05:
        depth = 100_000 if rng.random() < 0.02 else 1_100
    made, scalar = rng.choice(GLOBALS), _scalar(rng)
    values: tuple[Callable[[], bytes], ...] = (
        lambda: scalar,
        lambda: rng.choice((made, call(made), call(made, scalar), call(made, b"](K\0e"))),
        lambda: b"]" * depth + b"a" * (depth - 1),
        lambda: b")" + b"\x85" * depth,
        lambda: (b"}" + text_op("a")) * depth + b"N" + b"s" * depth,
        lambda: b"]" * 3 + b")" + b"\x85" * depth + b"a" * 3,
        lambda: _shared(rng, depth),
        lambda: _tensor(rng),
        lambda: b"\x8f(" + integer(1) * min(depth, 99) + b"\x90",
        lambda: sequence(*(_scalar(rng) for _ in range(rng.randrange(9)))),
    )
    return rng.choice(values)()


def _scalar(rng: Random) -> bytes:
    large = integer(rng.choice((1, -1)) << rng.choice((62, 64, 100, 900, 1100, 2000)))
    real = b"G" + struct.pack(">d", rng.choice((0.5, float("nan"), float("inf"), 1e300)))
    return rng.choice((b"N", b"\x88", b"\x89", integer(rng.randrange(9)), large, real, b"C\0", b")"))


def _shared(rng: Random, depth: int) -> bytes:
    """Return a small value that expands to a large one."""
    levels = min(depth, 28)
    put, get = b"r\xff\0\0\0", b"j\xff\0\0\0"
    kind = rng.choice((b"\x86", b"\x86", b"\x87"))
    wide = {b"\x86": get * 2, b"\x87": get * 3}[kind] + kind + put
    leaf = rng.choice((text_op("x" * 9_000), text_op("x"), b"N", b"]"))
    return leaf + put + (b"0" + wide) * levels


def _tensor(rng: Random) -> bytes:
    """Return a tensor in the style of one container, over a storage that may be missing."""
    box = rng.choice(BOXES)()
    storage = box.storage(key=str(rng.randrange(3)), numel=rng.choice((1, 4, 8)))
    size = [rng.choice((0, 1, 2, 1 << 22)) for _ in range(rng.randrange(4))]
    stride = [rng.choice((0, 1, 2)) for _ in size]
    return view(storage, integer(0), integers(*size), integers(*stride))
