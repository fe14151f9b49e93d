"""5,000 mutated files, and proof that the process that reads them detects faults."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from jaxlstm_converters.checkpoint import CODES, read_checkpoint
from testing.checkpoints.case import seeds
from testing.hostile.reader_process import ReaderProcess
from tools.fuzz.__main__ import fuzz, keep


def test_mutated_files(tmp_path: Path) -> None:
    """Every mutant yields tensors or a CheckpointError within the limits."""
    report = fuzz(0, [range(5_000)])
    findings = keep(0, report, tmp_path)
    assert not findings, f"{findings[:3]}; the files are in {tmp_path}"
    # The mutants get past the first check: some files of every container are still readable, and most
    # error codes occur. Flax files, changing files and budgets are tested elsewhere.
    read = {outcome.partition(" of ")[0] for outcome in report} - CODES.keys()
    assert read >= {"torch zip", "torch legacy", "TorchScript", "safetensors", "npz"}
    assert read >= {"sharded safetensors", "numpy pickle", "torch pickle", "pt2"}
    assert len(report.keys() & CODES.keys()) >= 30
    refused = sum(len(indices) for outcome, indices in report.items() if outcome in CODES)
    assert 0.5 < refused / 5_000 < 0.9


def test_seeds_are_valid(tmp_path: Path) -> None:
    """All seeds except the quantized one, which is refused by name, are read to the last tensor."""
    assert len(seeds()) > 30
    with ReaderProcess(tmp_path) as process:
        results = {seed.name: process.ask(seed.write(tmp_path / seed.name), {}) for seed in seeds()}
    assert not any("finding" in result for result in results.values())
    assert {name for name, result in results.items() if result["code"]} == {"zip-quantized"}


FAULTY = """
import os, signal, warnings
from testing.hostile import reader
from jaxlstm_converters.checkpoint import CheckpointError

honest = reader.read_checkpoint

def hang(path):
    while True:
        pass

def spin(path):
    # The process is killed after twice the limit.
    left = signal.getitimer(signal.ITIMER_PROF)[0]
    while signal.getitimer(signal.ITIMER_PROF)[0] > 0.3 * left:
        pass

def read_often(path):
    for _ in range(3_000):
        honest(path)

def import_module(path):
    import colorsys

def raise_two_lines(path):
    raise CheckpointError("truncated", "two\\nlines")

FAULTS = {
    "raise": lambda path: {}["a"],
    "allocate": lambda path: bytearray(80 << 20),
    "die": lambda path: os.kill(os.getpid(), 11),
    "hang": hang,
    "spin": spin,
    "system": lambda path: os.system("true"),
    "open": lambda path: open("/dev/null").close(),
    "import": import_module,
    "read": read_often,
    "warn": lambda path: warnings.warn("a warning"),
    "lines": raise_two_lines,
}

def faulty(path, **options):
    FAULTS.get(os.path.basename(path), lambda path: None)(path)
    return honest(path, **options)

reader.read_checkpoint = faulty
reader.main()
"""

FINDINGS = {
    "raise": "KeyError at ",
    "allocate": "MemoryError at ",
    "die": "the process ends with status -11",
    "hang": "the process ends with status -27",
    "spin": "took ",
    "system": "forbidden: os.system",
    "open": "forbidden: open",
    "import": "forbidden: import",
    "read": "bytes are read for",
    "warn": "UserWarning at ",
    "lines": "the error is not one line",
}


def test_faults_are_detected(tmp_path: Path) -> None:
    """Each broken guarantee of a reader is a finding, and the next file is read as usual."""
    with ReaderProcess(tmp_path, (sys.executable, "-c", FAULTY)) as process:
        for fault, finding in FINDINGS.items():
            folder = tmp_path / fault
            folder.mkdir()
            for name in ("good", fault, "good again"):
                np.save(folder / "a.npy", np.zeros(1))
                result = process.ask((folder / "a.npy").rename(folder / name), {})
                found = result.get("finding", "nothing")
                assert finding in found if name == fault else found == "nothing", (name, found)


def test_findings_are_kept(tmp_path: Path) -> None:
    """The report lists the files of a finding, and the first one is kept."""
    raises = FAULTY.replace('"raise":', '"file":')
    report = fuzz(0, [range(0, 6, 2), range(1, 6, 2)], command=(sys.executable, "-c", raises))
    (finding,) = keep(0, report, tmp_path)
    assert "KeyError at " in finding
    indices = report[finding]
    assert len(indices) >= 4
    record = tmp_path / f"0-{indices[0]}" / "finding.json"
    assert json.loads(record.read_text())["indices"] == indices
    # One process finds the same files.
    assert sorted(indices) == fuzz(0, [range(6)], command=(sys.executable, "-c", raises))[finding]


def test_signalling_nans_do_not_warn(tmp_path: Path) -> None:
    """NumPy warns when it widens signalling NaNs; the checkpoint reports them once, and no warning leaks."""
    raw = b"\x01\x7c" * 3  # float16
    header = b'{"w":{"dtype":"F16","shape":[3],"data_offsets":[0,6]}}'
    (tmp_path / "a").write_bytes(len(header).to_bytes(8, "little") + header + raw)
    checkpoint = read_checkpoint(tmp_path / "a")
    assert np.asarray(checkpoint["w"]).tobytes() == np.asarray(checkpoint["w"]).tobytes() == raw
    assert checkpoint.warnings == ["'w' holds 3 values that are NaN or infinite"]
