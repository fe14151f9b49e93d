"""Files in the stream format of torch before 1.6."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
import torch

from jaxlstm_converters.checkpoint import CheckpointError, read_checkpoint
from testing.checkpoints.compare import assert_same_bits, assert_same_checkpoint, flattened
from testing.wheels import fetch_pinned


def test_module_with_its_source(tmp_path: Path) -> None:
    """The file contains the source of its class, which is skipped."""
    module = torch.nn.Sequential(torch.nn.LSTM(2, 3), torch.nn.Linear(3, 1))
    torch.save(module, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    assert b"class Linear(Module)" in (tmp_path / "a.pt").read_bytes()
    assert_same_checkpoint(read_checkpoint(tmp_path / "a.pt"), module.state_dict())


@pytest.mark.network
def test_resemblyzer() -> None:
    path = fetch_pinned("resemblyzer", "resemblyzer/pretrained.pt")
    ours = read_checkpoint(path)
    theirs = flattened(torch.load(path, map_location="cpu", weights_only=True))
    assert_same_checkpoint(ours, theirs)
    assert ours["model_state.lstm.weight_hh_l2"].shape == (1024, 256)
    assert any(name.startswith("optimizer_state.state.") for name in ours)


def test_storage_views_of_torch_0_4(tmp_path: Path) -> None:
    """A storage that is a view of another one: (key, offset, size) follows the persistent id."""
    torch.save({"w": torch.arange(8.0)}, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    raw = (tmp_path / "a.pt").read_bytes()
    view = b"(X\x01\x00\x00\x007K\x02K\x05t"
    # The position after numel, where None means the whole storage.
    at = raw.index(b"K\x08N") + 2
    raw = raw[:at] + view + raw[at + 1 :]
    # Offset 1, size (4,).
    raw = raw.replace(b"K\x00K\x08\x85", b"K\x01K\x04\x85")
    (tmp_path / "a.pt").write_bytes(raw)
    theirs = torch.load(tmp_path / "a.pt", weights_only=True)["w"]
    assert theirs.tolist() == [3.0, 4.0, 5.0, 6.0]
    assert_same_bits(read_checkpoint(tmp_path / "a.pt")["w"], theirs)


def test_tar(tmp_path: Path) -> None:
    """The tar files of torch 0.1 are refused, with what to do."""
    with tarfile.open(tmp_path / "a.pt", "w:") as archive:
        archive.add(__file__, "storages")
    with pytest.raises(CheckpointError, match=r"tar archive: .* save it again with torch") as caught:
        read_checkpoint(tmp_path / "a.pt")
    assert caught.value.code == "unknown-format"
