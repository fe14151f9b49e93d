"""Mutated checkpoints yield tensors or a `CheckpointError`, and the process that reads them detects faults.

File number `index` is a valid file with some bits, numbers and ranges of bytes changed. The entries of an
archive are edited one by one, and packed again with right checksums and sizes. Ranges come from all valid
files. `testing/hostile` has the cases that the edits do not reach.

``FUZZ_FILES=1000000 FUZZ_SEED=7 FUZZ_ONLY=pt2 pytest -n auto tests/checkpoint/test_fuzz.py`` reads more
files, here of the valid files whose name starts with pt2. `make fuzz` does so with a new seed.
"""

import io
import os
import re
import sys
import zipfile
from collections import Counter
from collections.abc import MutableSequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxlstm_converters.checkpoint import CODES, read_checkpoint
from testing.checkpoints.seed import Seed, seeds
from testing.hostile.archives import END_RECORDS, HEADERS
from testing.hostile.mutation import mutate
from testing.hostile.reader_process import ReaderProcess
from testing.hostile.zip_archive import Member, archive

FILES, SEED = (int(os.environ.get(name, n)) for name, n in (("FUZZ_FILES", "3000"), ("FUZZ_SEED", "0")))
ONLY = os.environ.get("FUZZ_ONLY", "")
# The files of one test.
PART = 3000
# Boundary values for a reader's arithmetic: signs, integer widths, cache sizes and limits.
NUMBERS = [(1 << bits) - less for bits in (0, 2, 6, 8, 12, 16, 31, 32, 48, 62, 63, 64) for less in (1, 0)]
# Numbers and words in JSON texts, NumPy headers and protocol 0 of pickle.
WORDS = re.compile(rb"-?\b\d{1,20}\b|\"[^\"\0]{0,40}\"|'[^'\0]{0,40}'")
HEAD = 1 << 12


@dataclass(frozen=True)
class Mutant(Seed):
    """A mutated checkpoint, named for its seed, and the arguments for reading it."""

    options: dict[str, bool]


def mutant(index: int) -> Mutant:
    rng = Random(f"{SEED}-{index}")
    origin = rng.choice([origin for origin in seeds() if origin.name.startswith(ONLY)])
    files = dict(origin.files)
    for name in rng.sample(list(files), min(len(files), rng.choice((1, 1, 1, 2)))):
        edits = rng.choice((1, 1, 1, 1, 2, 2, 3, 5))
        edit = edit_zip if entries(files[name]) and rng.random() < 0.85 else edit_bytes
        files[name] = edit(rng, files[name], edits)
    return Mutant(origin.name, files, origin.opened, {"check_crc": rng.random() < 0.8})


@cache
def entries(raw: bytes) -> tuple[Member, ...]:
    """Return the entries of an archive, none for another file."""
    if not raw.startswith(b"PK"):
        return ()
    with zipfile.ZipFile(io.BytesIO(raw)) as opened:
        return tuple(Member(i.filename, opened.read(i), i.compress_type) for i in opened.infolist())


@cache
def corpus() -> list[bytes]:
    """Return all valid files, archives as their entries."""
    files = [raw for seed in seeds() for raw in seed.files.values()]
    return [part for raw in files for part in [member.data for member in entries(raw)] or [raw]]


def number(rng: Random, old: int) -> int:
    """Return a number near the old one or a special one; it may be negative or exceed any width."""
    near = (old + rng.choice((-8, -4, -1, 1, 4, 8)), old * rng.choice((-1, 0, 2, 3, 8)), old // 2)
    return rng.choice((*near, rng.choice(NUMBERS) * rng.choice((1, 1, -1)), rng.getrandbits(31)))


def edit_zip(rng: Random, raw: bytes, edits: int) -> bytes:
    """Edit entries, headers or the directory; other checksums and sizes stay correct."""
    members, options = list(entries(raw)), {}
    for _ in range(edits):
        at, what = rng.randrange(len(members) or 1), rng.randrange(20)
        if what == 0:
            options["end"] = rng.choice(list(END_RECORDS.values()))
        elif what < 3 or not members:
            edit_range(rng, members, list(entries(raw)))
        elif what < 6:
            members[at] = replace(members[at])
            mutate(members, str(at), rng.choice([*HEADERS.values()]))
        else:
            members[at] = replace(members[at], data=edit_bytes(rng, members[at].data, 1))
    return archive(members, before=rng.randbytes(rng.choice((0,) * 20 + (1, 8))), **options)


def edit_range(rng: Random, items: MutableSequence[Any], other: MutableSequence[Any] | bytes) -> None:
    """Delete, repeat or swap a range of items, or put a range of other items over it or before it."""
    start, length = rng.randrange(len(items) or 1), rng.choice((1, 2, 3, 4, 8, 16, 64, 256))
    run, first = items[start : start + length], rng.randrange(len(other) or 1)
    match rng.randrange(5):
        case 0 if rng.random() < 0.2:
            del items[start:]
        case 0:
            del items[start : start + length]
        case 1:
            items[start:start] = [*run] * rng.choice((1, 1, 2, 9))
        case 2:
            at = rng.randrange(len(items) or 1)
            items[start : start + length], items[at : at + length] = items[at : at + length], run
        case what:
            items[start : start + length * (what == 3)] = other[first : first + length]


def edit_bytes(rng: Random, raw: bytes, edits: int) -> bytes:
    """Flip a bit, change a number or a word, or edit a range of bytes."""
    made = bytearray(raw)
    for _ in range(edits):
        what = rng.randrange(8)
        # Most headers and counts are near the start.
        at = rng.randrange(min(len(made), rng.choice((64, HEAD, 1 << 30))) or 1)
        words = list(WORDS.finditer(made, 0, HEAD)) if what < 3 else []
        if words:
            word = rng.choice(words)
            others = [b"null", *WORDS.findall(rng.choice(corpus()), 0, HEAD)]
            digits = word[0].lstrip(b"-").isdigit()
            made[slice(*word.span())] = b"%d" % number(rng, int(word[0])) if digits else rng.choice(others)
        elif what < 5:
            width = rng.choice((1, 2, 4, 8))
            value = number(rng, int.from_bytes(made[at : at + width], "little"))
            made[at : at + width] = (value % (1 << 8 * width)).to_bytes(width, "little")
        elif what == 5:
            made[at : at + 1] = bytes(byte ^ 1 << rng.randrange(8) for byte in made[at : at + 1])
        else:
            edit_range(rng, made, rng.choice(corpus()))
    return bytes(made)


def outcome_of(result: dict[str, Any]) -> str:
    """Return an error code, or the container that was read, or the part that a program lacks."""
    if result["code"] is not None:
        return f"pt2 without a graph: {result['code']}" if result["stage"] == "graph" else result["code"]
    if "program" in result:
        return f"pt2 without a program: {result['program']}" if result["program"] else "pt2 of a program"
    return f"{result['container']} of {'some' if result['nbytes'] else 'no'} bytes"


@pytest.mark.parametrize("first", range(0, FILES, PART))
def test_mutated_files(first: int, tmp_path: Path) -> None:
    """Every mutant yields tensors or a CheckpointError within the limits."""
    outcomes: Counter[str] = Counter()
    with ReaderProcess(tmp_path) as process:
        for index in range(first, min(first + PART, FILES)):
            case = mutant(index)
            path = case.write(tmp_path / case.name)
            result = process.ask(path, case.options)
            assert "finding" not in result, (result["finding"], SEED, index, case.options, path)
            outcomes[outcome_of(result)] += 1
    if SEED == first == 0 and FILES >= PART and not ONLY:
        assert_mutants_get_past_the_first_check(outcomes)


def assert_mutants_get_past_the_first_check(outcomes: Counter[str]) -> None:
    """Some files of every container are still readable, and most error codes occur.

    Changing files and budgets are tested elsewhere.
    """
    read = {outcome.partition(" of ")[0] for outcome in outcomes} - CODES.keys()
    assert read >= {"torch zip", "torch legacy", "TorchScript", "safetensors"}
    assert read >= {"sharded safetensors", "numpy pickle", "torch pickle", "pt2"}
    assert len(outcomes.keys() & CODES.keys()) >= 30
    refused = sum(count for outcome, count in outcomes.items() if outcome in CODES)
    assert 0.5 < refused / outcomes.total() < 0.9


def test_seeds_are_valid(tmp_path: Path) -> None:
    """All seeds except the quantized one, which is refused by name, are read to the last tensor."""
    assert len(seeds()) > 30
    with ReaderProcess(tmp_path) as process:
        results = {seed.name: process.ask(seed.write(tmp_path / seed.name), {}) for seed in seeds()}
    assert not any("finding" in result for result in results.values())
    assert {name for name, result in results.items() if result["code"]} == {"zip-quantized"}


# Name -> code of a reader, and the report of the process.
FAULTS = {
    "raise": ("{}['a']", "KeyError at "),
    "allocate": ("bytearray(80 << 20)", "MemoryError at "),
    "die": ("os.kill(os.getpid(), 11)", "the process ends with status -11"),
    "spin": ("spin()", "took "),
    "open": ("open('/dev/null').close()", "forbidden: open"),
    "system": ("os.system('true')", "forbidden: os.system"),
    "import": ("__import__('colorsys')", "forbidden: import"),
    "read": ("[honest(path) for _ in range(3_000)]", "bytes are read for"),
    "warn": ("warnings.warn('a warning')", "UserWarning at "),
    "lines": ("raise_two_lines()", "the error is not one line"),
}
FAULTY = """
import os, signal, warnings
from testing.hostile import reader
from jaxlstm_converters.checkpoint import CheckpointError

honest = reader.read_checkpoint

def spin():
    # The process is killed after twice the limit.
    left = signal.getitimer(signal.ITIMER_PROF)[0]
    while signal.getitimer(signal.ITIMER_PROF)[0] > 0.3 * left:
        pass

def raise_two_lines():
    raise CheckpointError("truncated", "two\\nlines")

def faulty(path, **options):
    match os.path.basename(path):
CASES
    return honest(path, **options)

reader.read_checkpoint = faulty
reader.main()
""".replace("CASES", "".join(f"        case {name!r}: {code}\n" for name, (code, _) in FAULTS.items()))


@pytest.mark.slow
def test_faults_are_detected(tmp_path: Path) -> None:
    """Each broken guarantee of a reader is a finding, and the next file is read as usual."""
    with ReaderProcess(tmp_path, (sys.executable, "-c", FAULTY)) as process:
        for fault, (_, finding) in FAULTS.items():
            folder = tmp_path / fault
            folder.mkdir()
            for name in ("good", fault, "good again"):
                save_file({"a": np.zeros(20)}, folder / "a")
                result = process.ask((folder / "a").rename(folder / name), {})
                found = result.get("finding", "nothing")
                assert finding in found if name == fault else found == "nothing", (name, found)


def test_signalling_nans_do_not_warn(tmp_path: Path) -> None:
    """NumPy warns when it widens signalling NaNs; the checkpoint reports them once, and no warning leaks."""
    raw = b"\x01\x7c" * 3  # float16
    header = b'{"w":{"dtype":"F16","shape":[3],"data_offsets":[0,6]}}'
    (tmp_path / "a").write_bytes(len(header).to_bytes(8, "little") + header + raw)
    checkpoint = read_checkpoint(tmp_path / "a")
    assert np.asarray(checkpoint["w"]).tobytes() == np.asarray(checkpoint["w"]).tobytes() == raw
    assert checkpoint.warnings == ["'w' holds 3 values that are NaN or infinite"]
