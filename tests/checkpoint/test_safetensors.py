"""safetensors files are read as by the safetensors library; ambiguous files are refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from jaxlstm_converters.checkpoint import CheckpointError, read_checkpoint
from tests.support.checkpoints.compare import assert_same_bits, assert_same_checkpoint
from tests.support.checkpoints.tensors import DTYPES, random_tensor
from tests.support.wheels import fetch_pinned


def test_dtypes_and_metadata(tmp_path: Path) -> None:
    dtypes = [dtype for dtype in DTYPES if dtype != "complex128"]
    saved = {f"a.{dtype}": random_tensor(dtype, (5, 3)) for dtype in dtypes}
    saved |= {f"é.{dtype}": random_tensor(dtype, ()) for dtype in dtypes} | {"empty": torch.ones(0)}
    save_file(saved, tmp_path / "a.safetensors", {"note": "hi"})
    ours = read_checkpoint(tmp_path / "a.safetensors")
    assert ours.keys() == saved.keys()
    for name, tensor in load_file(tmp_path / "a.safetensors").items():
        assert_same_bits(ours[name], tensor)
    assert ours.container == "safetensors"
    assert ours.metadata == {"note": "hi"}


def test_no_tensors(tmp_path: Path) -> None:
    save_file({}, tmp_path / "a.safetensors")
    assert read_checkpoint(tmp_path / "a.safetensors") == {}


def write(path: Path, header: Any, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(shape: Any = (2,), offsets: Any = (0, 8), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


REFUSED = {
    "overlap": ({"a": entry(), "b": entry(offsets=(4, 12))}, 12, "safetensors-layout"),
    "hole": ({"a": entry(), "b": entry(offsets=(12, 20))}, 20, "safetensors-layout"),
    "hole first": ({"a": entry(offsets=(4, 12))}, 12, "safetensors-layout"),
    "trailing": ({"a": entry()}, 9, "trailing-bytes"),
    "short": ({"a": entry()}, 7, "truncated"),
    "size": ({"a": entry((3,))}, 8, "tensor-bounds"),
    "size below": ({"a": entry((1,))}, 8, "storage-size"),
    "overflow": ({"a": entry((2**33, 2**33))}, 8, "tensor-bounds"),
    "empty overflow": ({"a": entry((0, 2**60), (0, 0))}, 0, "tensor-shape"),
    "negative": ({"a": entry((-2,))}, 8, "tensor-shape"),
    "true": ({"a": entry((True, 2))}, 8, "tensor-shape"),
    "float shape": ({"a": entry((2.0,))}, 8, "safetensors-header"),
    "backwards": ({"a": entry(offsets=(8, 0))}, 8, "safetensors-header"),
    "no offsets": ({"a": {"dtype": "F32", "shape": [2]}}, 8, "safetensors-header"),
    "more keys": ({"a": entry() | {"x": 1}}, 8, "safetensors-header"),
    "dtype": ({"a": entry(dtype="F4")}, 8, "unsupported-tensor"),
    "metadata": ({"__metadata__": {"a": 1}, "a": entry()}, 8, "safetensors-header"),
    "list": ([1, 2], 0, "unknown-format"),
    "not json": (b"{'a': 1}", 0, "safetensors-header"),
    "nan": (b'{"a": NaN}', 0, "safetensors-header"),
    "deep": (b'{"a":' + b"[" * 100_000, 0, "safetensors-header"),
    "long number": (b'{"a":' + b"9" * 10_000 + b"}", 0, "safetensors-header"),
    "not utf-8": (b'{"\xff": 1}', 0, "safetensors-header"),
    "twice": (
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
        b'"a":{"dtype":"I32","shape":[2],"data_offsets":[0,8]}}',
        8,
        "duplicate-key",
    ),
    "inner twice": (
        b'{"a":{"dtype":"F32","dtype":"I32","shape":[2],"data_offsets":[0,8]}}',
        8,
        "duplicate-key",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(tmp_path: Path, case: str) -> None:
    header, size, code = REFUSED[case]
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(write(tmp_path / "a", header, bytes(size)))
    assert caught.value.code == code
    assert "\n" not in str(caught.value)


def test_handmade_file(tmp_path: Path) -> None:
    """Without their faults the files of test_refused are valid."""
    ours = read_checkpoint(write(tmp_path / "a", {"a": entry()}, bytes(8)))
    assert_same_checkpoint(ours, {"a": torch.zeros(2)})


@pytest.mark.network
def test_silero() -> None:
    path = fetch_pinned("silero-vad", "silero_vad/data/silero_vad_16k.safetensors")
    ours = read_checkpoint(path)
    theirs = load_file(path)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert_same_bits(ours[name], tensor)
    assert ours["lstm_cell.weight_ih"].shape == (512, 128)
