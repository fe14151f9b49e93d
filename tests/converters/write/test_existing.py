"""``save`` replaces its own files, and other files only with ``overwrite=True``."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import torch

from jaxlstm import LSTMConfig, load, save
from jaxlstm_converters.write._save import FORMATS, is_saved_file
from testing.saved_params import random_params, same_bits

CONFIG = LSTMConfig(2, 3)
OLD, NEW = (random_params(CONFIG, np.float32, seed) for seed in (0, 1))


def write_npz(path: Path) -> None:
    with open(path, "wb") as file:
        np.savez(file, **OLD)  # pyright: ignore[reportArgumentType]


def write_torch_again(path: Path) -> None:
    """Our file, read and saved again by torch, which may have added other tensors."""
    save(path, OLD, CONFIG)
    torch.save(torch.load(path, weights_only=True), path)


def write_safetensors_with_our_metadata(path: Path) -> None:
    save(path, OLD, CONFIG)
    with safetensors.safe_open(path, "numpy") as file:
        metadata = file.metadata()
    safetensors.numpy.save_file(OLD | {"head": np.ones(2)}, path, metadata)


FOREIGN = {
    "text": ("m.safetensors", lambda path: path.write_text("mine")),
    "empty": ("m.pt", lambda path: path.touch()),
    "torch": ("m.pt", lambda path: torch.save(OLD, path)),
    "torch, named jaxlstm": ("jaxlstm.pt", lambda path: torch.save(OLD, path)),
    "torch, legacy": ("m.pt", partial(torch.save, OLD, _use_new_zipfile_serialization=False)),
    "torch, ours at first": ("m.pt", write_torch_again),
    "npz": ("m.pt", write_npz),
    "safetensors": ("m.safetensors", lambda path: safetensors.numpy.save_file(OLD, path)),
    "safetensors, our metadata": ("m.safetensors", write_safetensors_with_our_metadata),
}


@pytest.mark.parametrize(("name", "write"), FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("link", [False, True], ids=["file", "link"])
def test_another_file_needs_overwrite(name: str, write: Any, link: bool, tmp_path: Path) -> None:
    target = tmp_path / name
    write(target)
    before = target.read_bytes()
    path = tmp_path / f"link{target.suffix}" if link else target
    if link:
        path.symlink_to(target)
    with pytest.raises(FileExistsError, match="was not written by jaxlstm; choose another path"):
        save(path, NEW, CONFIG)
    assert target.read_bytes() == before
    assert path.is_symlink() == link
    save(path, NEW, CONFIG, overwrite=True)
    assert same_bits(load(path)[0], NEW)
    if link:  # the link was replaced, its target was not
        assert not path.is_symlink()
        assert target.read_bytes() == before


@pytest.mark.parametrize("old", FORMATS)
@pytest.mark.parametrize("new", FORMATS)
@pytest.mark.parametrize("prefix", ["", "encoder."])
def test_a_saved_file_is_replaced(old: str, new: str, prefix: str, tmp_path: Path) -> None:
    path = tmp_path / "m.file"
    save(path, OLD, CONFIG, format=old, prefix=prefix)
    assert is_saved_file(path)
    save(path, NEW, CONFIG, format=new)
    assert same_bits(load(path)[0], NEW)


def test_a_link_to_a_saved_file_is_replaced(tmp_path: Path) -> None:
    target, link = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save(target, OLD, CONFIG)
    link.symlink_to(target)
    save(link, NEW, CONFIG)
    assert same_bits(load(target)[0], OLD)
    assert same_bits(load(link)[0], NEW)


def test_a_dangling_link_needs_overwrite(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    path.symlink_to(tmp_path / "missing")
    with pytest.raises(FileExistsError):
        save(path, NEW, CONFIG)
    save(path, NEW, CONFIG, overwrite=True)
    assert same_bits(load(path)[0], NEW)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("link", [False, True])
def test_a_directory_is_never_replaced(link: bool, overwrite: bool, tmp_path: Path) -> None:
    path = tmp_path / "m"
    (tmp_path / "target").mkdir()
    path.symlink_to("target") if link else path.mkdir()
    with pytest.raises(FileExistsError, match="choose another path"):
        save(path, NEW, CONFIG, format="safetensors", overwrite=overwrite)
    assert path.is_symlink() == link


def test_a_device_is_never_replaced() -> None:
    with pytest.raises(FileExistsError, match="not a regular file"):
        save(os.devnull, NEW, CONFIG, format="safetensors", overwrite=True)
