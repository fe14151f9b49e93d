"""`read_checkpoint`: detection of the format, and the call of its reader."""

import os

from .checkpoint import Checkpoint
from .errors import CheckpointError
from .formats.onnx import is_onnx, read_onnx
from .formats.pt2 import read_pt2
from .formats.pt2_archive import is_pt2
from .formats.safetensors import is_safetensors, read_safetensors
from .formats.sharded import is_index, read_sharded
from .formats.torch_legacy import read_pickle
from .formats.torch_zip import is_torchscript, read_torch_zip, read_torchscript, root_folder
from .io._make_tensor import Budget
from .io.files import CheckpointFile
from .io.zip_archive import Archive

HEAD = 512
# Files that users mistake for checkpoints, by their first bytes.
KINDS = {
    b"version https://git-lfs": "a Git LFS pointer: run git lfs pull",
    b"<!doctype html": "a web page instead of the download",
    b"<html": "a web page instead of the download",
    b"\x89hdf": "an HDF5 file, as Keras writes",
    b"\x93numpy": "a NumPy array: give jaxlstm.from_torch a dict of numpy.load's arrays",
    b"\x1f\x8b": "a gzip archive: unpack it first",
}


def read_checkpoint(path: str | os.PathLike[str], *, check_crc: bool = True) -> Checkpoint:
    """Return the tensors of a checkpoint by name, without torch. Tensors are read on demand.

    The name of a tensor is the dictionary keys that lead to it, joined by ".". The first bytes of
    the file determine its format; `docs/containers.md` lists the formats.

    Args:
        path: the file, or the index of a sharded checkpoint.
        check_crc: compare the checksums of zip archives. Pass False for files that torch wrote
            under `torch.serialization.set_crc32_options(False)`.

    Returns:
        A dict of lazy tensors: `numpy.asarray(checkpoint[name])` reads one.

    Raises:
        CheckpointError: the file has an unsupported format, or is damaged or hostile. See its
            `code`.
        OSError: the file cannot be opened.
        ModuleNotFoundError: the file is an ONNX model, and the `onnx` package is not installed.

    >>> torch.save({"model": torch.nn.Linear(2, 3).state_dict()}, "linear.pt")
    >>> jaxlstm.read_checkpoint("linear.pt")["model.weight"].shape
    (3, 2)
    """
    try:
        source = CheckpointFile(path)
        checkpoint = _read(source, check_crc)
        source.check_unchanged()
    except CheckpointError as error:
        error.path = error.path or os.fspath(path)
        raise
    return checkpoint


def _read(source: CheckpointFile, check_crc: bool) -> Checkpoint:
    if is_index(source.read(0, min(HEAD, source.size))):
        return read_sharded(source, lambda shard, budget: _read_single(shard, budget, check_crc))
    return _read_single(source, Budget(source.size), check_crc)


def _read_single(source: CheckpointFile, budget: Budget, check_crc: bool) -> Checkpoint:
    head = source.read(0, min(HEAD, source.size))
    if head.startswith(b"PK"):
        return _read_zip(source, budget, check_crc)
    if is_safetensors(head, source.size):
        return read_safetensors(source, budget)
    if head.startswith(b"\x80"):
        return read_pickle(source, budget)
    if is_onnx(head):
        return read_onnx(source)
    message = f"the file starts with {head[:8]!r}, which no supported format does"
    raise CheckpointError("unknown-format", message + _likely_kind(head, source.path))


def _likely_kind(head: bytes, path: str) -> str:
    """Return the end of a message about an unknown format: the likely kind of the file."""
    if os.fsdecode(path).endswith(".stablehlo"):
        return "; jaxlstm.inference.load_exported reads artifacts of jaxlstm export"
    if head[257:262] == b"ustar":
        fix = "if torch 0.1 wrote it and you trust it, load and save it again with torch 0.4 or later"
        return f"; it looks like a tar archive: {fix}"
    kind = next((kind for start, kind in KINDS.items() if head.lstrip().lower().startswith(start)), "")
    return f"; it looks like {kind}" if kind else ""


def _read_zip(source: CheckpointFile, budget: Budget, check_crc: bool) -> Checkpoint:
    archive = Archive(source, check_crc)
    if is_pt2(archive):
        return read_pt2(archive, budget)
    prefix = root_folder(archive)
    reader = read_torchscript if is_torchscript(archive, prefix) else read_torch_zip
    return reader(archive, prefix, budget)
