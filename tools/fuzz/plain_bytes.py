"""Mutations of numbers, strings and plain bytes, the basis of all format-specific mutations."""

from __future__ import annotations

from collections.abc import Callable, MutableSequence
from random import Random
from typing import Any

# Edits a part of a file at the level of its own format.
Mutate = Callable[[Random, bytes], bytes]
# Boundary values for a reader's arithmetic: signs, integer widths, cache sizes and limits.
NUMBERS = (
    *(0, 1, 2, 3, 4, 7, 8, 16, 63, 64, 65, 127, 128, 255, 256, 4095, 4096, 65535, 65536),
    *(1 << 20, 1 << 23, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 40, 1 << 48),
    *(1 << 60, (1 << 62) - 1, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1 << 64),
)
TEXTS = ("", "0", "1", "-1", "a", "a.b", "..", "../x", "/", "\\", "\n", "\0", "é", "\ud800", "٣")
NAMES = ("weight_ih_l0", "weight_hh_l1", "bias_ih_l0_reverse", "weight_hr_l0", "weight_hh", "0")


def number(rng: Random, old: int) -> int:
    """Return a number near the old one or a special one; it may be negative or exceed any width."""
    return rng.choice(
        (
            old + rng.choice((-8, -4, -2, -1, 1, 2, 4, 8)),
            old * rng.choice((-1, 0, 2, 3, 4, 8)),
            old // rng.choice((2, 4, 8)),
            rng.choice(NUMBERS),
            rng.choice(NUMBERS) + rng.choice((-1, 1)),
            -rng.choice(NUMBERS),
            rng.getrandbits(rng.choice((3, 8, 31, 64))),
        )
    )


def fixed(value: int, width: int, order: str = "little") -> bytes:
    """Return the number in `width` bytes, truncated if necessary."""
    return (value % (1 << 8 * width)).to_bytes(width, order)  # type: ignore[arg-type]


def text(rng: Random, old: str) -> str:
    """Return a string near the old one or a special one."""
    at = rng.randrange(len(old) + 1)
    other = rng.choice(TEXTS + NAMES)
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
    made = bytearray(raw)
    if not made:
        return rng.randbytes(rng.choice((1, 8)))
    return bytes(rng.choice(_EDITS)(rng, made))


def _flip(rng: Random, raw: bytearray) -> bytearray:
    raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    return raw


def _set(rng: Random, raw: bytearray) -> bytearray:
    raw[rng.randrange(len(raw))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return raw


def _insert(rng: Random, raw: bytearray) -> bytearray:
    at = rng.randrange(len(raw) + 1)
    raw[at:at] = rng.choice((rng.randbytes(1), rng.randbytes(8), bytes(rng.choice((1, 64, 512)))))
    return raw


def _number(rng: Random, raw: bytearray) -> bytearray:
    width, order = rng.choice((1, 2, 4, 8)), rng.choice(("little", "little", "big"))
    at = rng.randrange(max(1, len(raw) - width + 1))
    old = int.from_bytes(raw[at : at + width], order)  # type: ignore[arg-type]
    raw[at : at + width] = fixed(number(rng, old), width, order)
    return raw


def _cut(rng: Random, raw: bytearray) -> bytearray:
    return raw[: rng.randrange(len(raw))]


def _run(rng: Random, raw: bytearray) -> bytearray:
    edit_sequence(rng, raw)
    return raw


_EDITS: tuple[Callable[[Random, bytearray], bytearray], ...] = (
    *(_flip, _flip, _set, _set, _insert, _number, _number, _number, _cut, _run, _run),
)
