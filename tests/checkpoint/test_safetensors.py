"""safetensors files, sharded checkpoints, and indexes that contradict their shards.

`testing/hostile/formats.py` has malformed files, and indexes that point outside the folder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from jaxlstm_converters.checkpoint import CheckpointError, read_checkpoint
from testing.checkpoints.compare import DTYPES, assert_same_bits, assert_same_checkpoint, random_tensor


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


STATE = torch.nn.LSTM(3, 4, 2).state_dict()
PARTS = [dict(list(STATE.items())[:5]), dict(list(STATE.items())[5:])]


def write(folder: Path, ending: str = "safetensors", **edits: Any) -> Path:
    weight_map = {}
    for number, part in enumerate(PARTS):
        file = f"model-{number}.{ending}"
        if ending == "safetensors":
            save_file(part, folder / file, {"format": "pt"})
        else:
            torch.save(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    index = folder / f"model.{ending}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map | edits}))
    return index


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_shards(tmp_path: Path, ending: str) -> None:
    ours = read_checkpoint(write(tmp_path, ending))
    assert_same_checkpoint(ours, STATE)
    kind = {"safetensors": "safetensors", "bin": "torch zip"}[ending]
    assert ours.container == f"sharded {kind}"
    assert ours.metadata == ({"format": "pt"} if ending == "safetensors" else {})


def test_links_inside_the_directory(tmp_path: Path) -> None:
    index = write(tmp_path)
    (tmp_path / "model-1.safetensors").rename(tmp_path / "blob")
    (tmp_path / "model-1.safetensors").symlink_to("blob")
    assert_same_checkpoint(read_checkpoint(index), STATE)


def test_nonfinite_values_are_reported(tmp_path: Path) -> None:
    save_file({"w": torch.tensor([float("nan")])}, tmp_path / "a.safetensors")
    index = tmp_path / "index.json"
    index.write_text(json.dumps({"weight_map": {"w": "a.safetensors"}}))
    ours = read_checkpoint(index)
    assert np.isnan(np.asarray(ours["w"]))
    assert ours.warnings == ["'w' holds 1 values that are NaN or infinite"]


@pytest.mark.parametrize(
    ("edits", "said"),
    [
        ({"bias_hh_l1": "model-0.safetensors"}, "bias_hh_l1"),
        ({"more": "model-0.safetensors"}, "more"),
        ({"more": "model-9.safetensors"}, "model-9.safetensors"),
    ],
)
def test_index_contradicts_shards(tmp_path: Path, edits: dict[str, str], said: str) -> None:
    with pytest.raises(CheckpointError, match=said) as caught:
        read_checkpoint(write(tmp_path, **edits))
    assert caught.value.code == "shard-mismatch"


def test_index_as_shard(tmp_path: Path) -> None:
    index = write(tmp_path, more="model.safetensors.index.json")
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(index)
    assert caught.value.code == "unknown-format"
    assert caught.value.path == str(index)
