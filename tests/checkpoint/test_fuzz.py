"""10,000 mutated files, minimized findings of the fuzzer, and proof that the fuzzer detects faults."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxlstm_converters.checkpoint import CODES, read_checkpoint
from jaxlstm_converters.lstm._find_lstms import find_lstms, survey
from testing.checkpoints.case import Case
from testing.hostile.found import cases
from testing.hostile.reader_process import Child, assert_outcome
from tools.fuzz.__main__ import fuzz, keep
from tools.fuzz.mutate import mutant
from tools.fuzz.seeds import seeds


@pytest.mark.parametrize(
    "start", [0, 2_500, *(pytest.param(start, marks=pytest.mark.slow) for start in (5_000, 7_500))]
)
def test_mutated_files(tmp_path: Path, start: int) -> None:
    """Every mutant yields tensors or a CheckpointError within the limits."""
    report = fuzz(0, start, 2_500)
    keep(0, report, tmp_path)
    assert not report.findings, f"{report.findings}; the files are in {tmp_path}"
    assert report.files == sum(report.outcomes.values()) == 2_500
    # The mutants get past the first check: some files of every container are still readable, and most
    # error codes occur. Flax files, changing files and budgets are tested elsewhere.
    read = {outcome.partition(" of ")[0] for outcome in report.outcomes} - CODES.keys()
    assert read >= {"torch zip", "torch legacy", "torch legacy tar", "TorchScript", "ONNX"}
    assert read >= {"safetensors", "sharded safetensors", "numpy pickle", "torch pickle", "npz"}
    assert len(report.outcomes.keys() & CODES.keys()) >= 30
    refused = sum(number for outcome, number in report.outcomes.items() if outcome in CODES)
    assert 0.5 < refused / report.files < 0.9


def test_mutants_are_deterministic() -> None:
    """A seed and an index name the same bytes on every machine and with every Python."""
    made = hashlib.sha256()
    for index in range(300):
        case = mutant(1, index)
        for name, raw in sorted(case.files.items()):
            made.update(b"%s %s %d" % (case.seed.encode(), name.encode(), case.check_crc) + raw)
    assert made.hexdigest() == DIGEST


DIGEST = "1d2447024e58c8dc6ea98bfe88b16a4dd25816175cd57f1ec84ab86cd6f3bc44"


def test_seeds_are_valid(tmp_path: Path) -> None:
    """All seeds except the quantized one, which is refused by name, are read to the last tensor."""
    assert len(seeds()) > 30
    for seed in seeds():
        folder = tmp_path / seed.name
        folder.mkdir()
        for name, raw in seed.files.items():
            (folder / name).write_bytes(raw)
        if seed.name == "zip-quantized":
            with pytest.raises(ValueError, match="quantized"):
                read_checkpoint(folder / seed.opened)
        else:
            checkpoint = read_checkpoint(folder / seed.opened)
            assert checkpoint
            assert all(np.asarray(tensor).shape == tensor.shape for tensor in checkpoint.values())
            find_lstms(checkpoint)


FAULTY = """
import os, sys, time, warnings
from pathlib import Path
from tools.fuzz import child
from jaxlstm_converters.checkpoint import CheckpointError

honest, numbers = child.read_checkpoint, iter(range(10**9))
warm = len(child.seeds())

def faulty(path, **options):
    number = next(numbers) - warm
    if number == 3: raise KeyError("a")
    if number == 5: bytearray(80 << 20)
    if number == 7: os.kill(os.getpid(), 11)
    return honest(path, **options)

def later(path, **options):
    number, stop = next(numbers) - warm, time.process_time() + 2
    if number == 1: os.system("true")
    if number == 2: warnings.warn("a warning")
    while number == 3 and time.process_time() < stop: pass
    if number == 4: raise CheckpointError("truncated", "two\\nlines")
    return honest(path, **options)

seed, start, count = map(int, sys.argv[1:4])
child.read_checkpoint = faulty if start == 0 else later
child.main(seed, start, count, Path(sys.argv[4]))
"""


def test_faults_are_detected() -> None:
    """The fuzzer detects a reader that raises, allocates, dies, starts a program, warns or is slow."""
    report = fuzz(0, 0, 20, child=(sys.executable, "-c", FAULTY))
    found = report.findings
    expected = {
        "KeyError": 3,
        "MemoryError": 5,
        "the process ends with status -11": 7,
        "forbidden: os.system": 9,
        "UserWarning": 10,
        "s for": 11,
        "BrokenPromiseError": 12,
    }
    assert len(found) == len(expected), found
    for start, index in expected.items():
        assert [i for text, i in found.items() if start in text] == [[index]], (start, found)


@pytest.mark.parametrize("case", list(cases()), ids=lambda case: case.id)
def test_found(tmp_path: Path, child: Child, case: Case) -> None:
    """A finding is refused with its code or read correctly, within the limits of the hostile corpus."""
    assert_outcome(child.ask(case.create(tmp_path), case.options), case)


def test_impossible_projection_is_reported(tmp_path: Path) -> None:
    """A weight_hr with more rows than columns fits no config."""
    state = {"weight_ih_l0": (4, 2), "weight_hh_l0": (4, 4), "weight_hr_l0": (4, 1)}
    np.savez(tmp_path / "a.npz", **{name: np.ones(shape) for name, shape in state.items()})  # type: ignore[arg-type]
    checkpoint = read_checkpoint(tmp_path / "a.npz")
    assert "proj_size" in survey(checkpoint).broken[""]
    with pytest.raises(ValueError, match="proj_size must be smaller"):
        find_lstms(checkpoint)


def test_signalling_nans_do_not_warn(tmp_path: Path) -> None:
    """NumPy warns when it widens signalling NaNs; the checkpoint reports them once, and no warning leaks."""
    raw = b"\x01\x7c" * 3  # float16
    header = b'{"w":{"dtype":"F16","shape":[3],"data_offsets":[0,6]}}'
    (tmp_path / "a").write_bytes(len(header).to_bytes(8, "little") + header + raw)
    checkpoint = read_checkpoint(tmp_path / "a")
    assert np.asarray(checkpoint["w"]).tobytes() == np.asarray(checkpoint["w"]).tobytes() == raw
    assert checkpoint.warnings == ["'w' holds 3 values that are NaN or infinite"]
