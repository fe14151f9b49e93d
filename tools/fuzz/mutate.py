"""File number `index` of the fuzzer: a seed file with mutations at some level of its format."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from testing.checkpoints.seeds import Seed, seeds
from tools.fuzz import archives, pickles, texts
from tools.fuzz.plain_bytes import Mutate, edit_bytes

# Exceptions of the standard library's parsers on input that has been mutated before.
UNPARSED = (
    *(ValueError, LookupError, OverflowError, RecursionError, AttributeError, struct.error),
    *(zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error),
)

Mutator = Callable[[Random, bytes, int, Mutate], bytes]


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
    """Apply one to five edits, at the level of the format if it is recognized."""
    mutator = mutator_for(raw)
    edits = rng.choice((1, 1, 1, 1, 2, 2, 3, 5))
    if mutator is not None and rng.random() < 0.85:
        try:
            return mutator(rng, raw, edits, mutate)
        except UNPARSED:
            pass
    for _ in range(edits):
        raw = edit_bytes(rng, raw)
    return raw


def mutator_for(raw: bytes) -> Mutator | None:
    """Return the mutator for the format, recognized by its first bytes as in the reader."""
    if raw.startswith(b"PK"):
        return archives.mutate_zip
    if pickles.HEAD.match(raw):
        return pickles.mutate_pickle
    if raw.startswith(b"\x93NUMPY"):
        return texts.mutate_npy
    if raw.startswith(b"{"):
        return texts.mutate_json
    if raw[8:9] == b"{" and struct.unpack("<Q", raw[:8])[0] < len(raw):
        return texts.mutate_safetensors
    return None
