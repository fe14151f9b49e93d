"""What numpy and plain pickle write: .npy, .npz, and pickles of dicts of arrays or of tensors."""

from __future__ import annotations

import re
import zlib

import numpy as np

from ..checkpoint import Checkpoint
from ..errors import CheckpointError, shown
from ..io.source import Source
from ..io.storage import Budget, Storage
from ..io.stream import Stream
from ..io.tensor import Tensor, contiguous_strides, make_tensor
from ..io.zip_archive import Entry, refuse_compressed
from ..pickle._name_tensors import Named, name_tensors
from ..pickle._run_pickle import run_pickle
from ..pickle.modules import module_members
from ..pickle.numpy_calls import NUMERIC
from .torch_legacy import MAGIC_NUMBER, read_legacy, read_nested_storage

NPY_MAGIC = b"\x93NUMPY"
MAX_HEADER = 4096
HEADER = re.compile(
    r"\{'descr': '(?P<descr>[^']*)', 'fortran_order': (?P<fortran>True|False), "
    r"'shape': \((?P<shape>(?:\d{1,19}, ?)*(?:\d{1,19})?)\), \}\s*",
    re.ASCII,
)


def read_pickle(source: Source, budget: Budget) -> Checkpoint:
    """A file that is a pickle; if that is torch's magic number, what follows."""
    stream = Stream(source, 0, source.size)
    result = run_pickle(stream, budget, nested=read_nested_storage)
    root = result.value
    if type(root) is int:
        if root != MAGIC_NUMBER:
            raise CheckpointError("legacy-header", "the magic number is not torch's", offset=0)
        return read_legacy(source, stream.offset, budget)
    if stream.remaining:
        raise CheckpointError(
            "trailing-bytes", "bytes follow the end of the pickle", offset=stream.offset
        )
    named = name_tensors(
        result.value,
        budget=budget,
        opcodes=result.opcodes,
        members=module_members,
        built=result.tensors,
    )
    container = "torch pickle" if result.has_nested_storages else "numpy pickle"
    return Checkpoint(source.path, container, named)


def read_npz(
    source: Source, entries: dict[str, Entry], budget: Budget, *, check_crc: bool
) -> Checkpoint:
    """An archive of .npy files, each under its name without the ending."""
    refuse_compressed(entries.values())
    named = Named()
    for name, entry in entries.items():
        end = entry.offset + entry.size
        crc = entry.crc if check_crc else None
        _add(named, name.removesuffix(".npy"), _read_array(source, entry.offset, end, budget, crc))
    return Checkpoint(source.path, "npz", named)


def read_npy(source: Source, budget: Budget) -> Checkpoint:
    """One array; its name is empty, as that of a bare tensor."""
    named = Named()
    _add(named, "", _read_array(source, 0, source.size, budget, None))
    return Checkpoint(source.path, "npy", named)


def is_npz(entries: dict[str, Entry]) -> bool:
    """Whether every entry is an array."""
    return bool(entries) and all(name.endswith(".npy") for name in entries)


def _read_array(
    source: Source, offset: int, end: int, budget: Budget, crc: int | None
) -> Tensor | None:
    """The array between `offset` and `end`; None if it holds no numbers."""
    stream = Stream(source, offset, end, "numpy-header")
    if stream.take(6) != NPY_MAGIC:
        raise CheckpointError("numpy-header", "this is no numpy array", offset=offset)
    major, _minor = stream.take(2)
    if major not in (1, 2, 3):
        raise CheckpointError("numpy-header", f"version {major} is unknown", offset=offset)
    length = stream.number("<H" if major == 1 else "<I")
    if length > MAX_HEADER:
        raise CheckpointError("numpy-header", f"a header has {length} bytes", offset=offset)
    text = stream.take(length).decode("latin1")
    header = HEADER.fullmatch(text)
    if header is None:
        raise CheckpointError("numpy-header", f"the header is {shown(text)!r}", offset=offset)
    descr = header["descr"]
    if not NUMERIC.fullmatch(descr[1:]) or descr[0] not in "<>|=":
        return None
    return _view(
        stream, header, budget, crc, zlib.crc32(source.read(offset, stream.offset - offset))
    )


def _view(
    stream: Stream, header: re.Match[str], budget: Budget, crc: int | None, crc_start: int
) -> Tensor:
    dtype = np.dtype(header["descr"][1:])
    shape = tuple(int(n) for n in header["shape"].replace(" ", "").split(",") if n)
    data = stream.span(stream.remaining)
    storage = Storage(stream.source, data.offset, data.length, crc=crc, crc_start=crc_start)
    storage.swapped = header["descr"][0] == ">"
    strides = None
    if header["fortran"] == "True":
        strides = tuple(reversed(contiguous_strides(tuple(reversed(shape)))))
    tensor = make_tensor(storage, dtype, shape, budget=budget, strides=strides)
    if tensor.nbytes != storage.nbytes:
        raise CheckpointError(
            "storage-size",
            f"an array of {tensor.nbytes} bytes has {storage.nbytes}",
            offset=storage.offset,
        )
    return tensor


def _add(named: Named, name: str, tensor: Tensor | None) -> None:
    if tensor is None:
        named.warnings.append(f"{shown(name)!r} holds no numbers; it is left out")
        return
    tensor.name_it(name, named.warnings)
    named.tensors[name] = tensor
