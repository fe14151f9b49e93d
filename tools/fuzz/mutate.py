"""File number `index` of the fuzzer: a seed, mutated at some level of its format."""

from __future__ import annotations

import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tools.fuzz import archives, pickles, protobuf, texts
from tools.fuzz.plain_bytes import edit_bytes
from tools.fuzz.seeds import seeds

# What parsers of the standard library say of bytes that were mutated before.
UNPARSED = (
    *(ValueError, LookupError, OverflowError, RecursionError, AttributeError, struct.error),
    *(zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error),
    tarfile.TarError,
)

Mutator = Callable[[Random, bytes, int, Callable[[Random, bytes], bytes]], bytes]


@dataclass(frozen=True)
class Mutant:
    """The files of a mutated checkpoint, which of them is opened, and how."""

    seed: str
    files: dict[str, bytes]
    opened: str
    check_crc: bool

    def write(self, folder: Path) -> Path:
        """Write the files; gives the one to open."""
        for name, raw in self.files.items():
            (folder / name).write_bytes(raw)
        return folder / self.opened


def mutant(seed: int, index: int) -> Mutant:
    """The same for the same numbers, on every machine."""
    rng = Random(f"{seed}-{index}")
    origin = rng.choice(seeds())
    files = dict(origin.files)
    for name in rng.sample(list(files), min(len(files), rng.choice((1, 1, 1, 2)))):
        files[name] = mutate(rng, files[name])
    return Mutant(origin.name, files, origin.opened, rng.random() < 0.8)


def mutate(rng: Random, raw: bytes) -> bytes:
    """One to some edits, at the level of the format if the bytes have one that is known."""
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
    """By the first bytes, as the reader does."""
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
    if raw[257:262] == b"ustar":
        return archives.mutate_tar
    if len(raw) > 16 and raw[0] == 8 and raw[1] < 32:
        return protobuf.mutate_protobuf
    return None
