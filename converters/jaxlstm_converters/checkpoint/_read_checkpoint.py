"""Reads PyTorch checkpoints without torch, executing nothing that a file says.

`read_checkpoint` is the door: it tells the container by the first bytes, not by the name of the
file, and hands on to the reader of that container.
"""

from __future__ import annotations

import os

from .checkpoint import Checkpoint
from .errors import CheckpointError
from .formats.numpy_files import NPY_MAGIC, is_npz, read_npy, read_npz, read_pickle
from .formats.onnx import is_onnx, read_onnx
from .formats.safetensors import is_safetensors, read_safetensors
from .formats.sharded import is_index, read_sharded
from .formats.torch_tar import is_tar, read_legacy_tar
from .formats.torch_zip import read_torch_zip
from .formats.torchscript import is_torchscript, read_torchscript
from .io.source import Source
from .io.storage import Budget
from .io.zip_archive import Entry, read_archive, refuse_compressed


def read_checkpoint(path: str | os.PathLike[str], *, check_crc: bool = True) -> Checkpoint:
    """Every tensor of a checkpoint by name, whatever its container; tensors are read on demand.

    A name is the dictionary keys on the way to the tensor, joined by ".". `docs/containers.md`
    lists the containers.

    Args:
        path: the file; for a sharded checkpoint its index.
        check_crc: compare the checksums of zip archives. False is for files that torch wrote
            under `torch.serialization.set_crc32_options(False)`.

    Returns:
        A dict of lazy tensors: `numpy.asarray(checkpoint[name])` reads one.

    Raises:
        CheckpointError: the file is none that is read here, or is damaged or hostile; see its
            `code`.
        OSError: the file cannot be opened.
    """
    try:
        source = Source(path)
        checkpoint = _read(source, check_crc)
        source.check_unchanged()
    except CheckpointError as error:
        error.path = error.path or os.fspath(path)
        raise
    return checkpoint


def _read(source: Source, check_crc: bool) -> Checkpoint:
    head = source.read(0, min(512, source.size))
    if is_index(head):
        return read_sharded(source, lambda shard, budget: _read_single(shard, budget, check_crc))
    return _read_single(source, Budget(source.size), check_crc)


def _read_single(source: Source, budget: Budget, check_crc: bool) -> Checkpoint:
    head = source.read(0, min(512, source.size))
    if head.startswith(b"PK"):
        return _read_zip(source, budget, check_crc)
    if is_safetensors(head, source.size):
        return read_safetensors(source, budget)
    if head.startswith(b"\x80"):
        return read_pickle(source, budget)
    if head.startswith(NPY_MAGIC):
        return read_npy(source, budget)
    if is_tar(head):
        return read_legacy_tar(source, budget)
    if is_onnx(head):
        return read_onnx(source, budget)
    raise CheckpointError(
        "unknown-format", f"the file starts with {head[:8]!r}, like no checkpoint that is read here"
    )


def _read_zip(source: Source, budget: Budget, check_crc: bool) -> Checkpoint:
    entries = read_archive(source)
    if is_npz(entries):
        return read_npz(source, entries, budget, check_crc=check_crc)
    prefix = _torch_prefix(entries)
    if is_torchscript(entries, prefix):
        return read_torchscript(source, entries, prefix, budget, check_crc=check_crc)
    refuse_compressed(entries.values())
    return read_torch_zip(source, entries, prefix, budget, check_crc=check_crc)


def _torch_prefix(entries: dict[str, Entry]) -> str:
    """The one folder that holds data.pkl and everything else."""
    roots = [name for name in entries if name.rpartition("/")[2] == "data.pkl"]
    if len(roots) != 1 or roots[0].count("/") != 1:
        raise CheckpointError("zip-layout", f"the archive holds {len(roots)} data.pkl, not one")
    prefix = roots[0].removesuffix("data.pkl")
    stray = [name for name in entries if not name.startswith(prefix)]
    if stray:
        raise CheckpointError("zip-layout", f"{stray[0]!r} is not under {prefix!r}")
    return prefix
