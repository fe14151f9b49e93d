"""safetensors files are read as by the safetensors library.

`testing/hostile/formats.py` has the files that are refused.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from jaxlstm_converters.checkpoint import read_checkpoint
from testing.checkpoints.compare import assert_same_bits
from testing.checkpoints.tensors import DTYPES, random_tensor


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
