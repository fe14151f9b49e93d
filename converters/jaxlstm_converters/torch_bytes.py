"""The bytes of a ``torch.save`` file of a state dict, made without torch.

A zip archive of stored entries, as torch 1.6 and later write it: ``data.pkl``, the state dict as a pickle in
which each tensor is a call of ``torch._utils._rebuild_tensor_v2`` on a storage named by number;
``byteorder``; ``data/0`` and so on, the bytes of the storages, each at a multiple of 64 bytes so that torch
can map them; and ``version``. ``torch.load(weights_only=True)`` opens it.
Source: torch/serialization.py and caffe2/serialize/inline_container.cc.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Mapping

import ml_dtypes
import numpy as np

_ROOT = "archive"
_ALIGNMENT = 64
_LOCAL_HEADER = 30  # bytes before the name of an entry
_STORAGES = {
    np.dtype(np.float64): "DoubleStorage",
    np.dtype(np.float32): "FloatStorage",
    np.dtype(np.float16): "HalfStorage",
    np.dtype(ml_dtypes.bfloat16): "BFloat16Storage",
}


def torch_bytes(tensors: Mapping[str, np.ndarray]) -> bytes:
    """One file's bytes: an OrderedDict of the tensors, each with a storage of its own on the CPU."""
    for name, tensor in tensors.items():
        if tensor.dtype not in _STORAGES:
            raise TypeError(f"{name} must be a float array, got {tensor.dtype}")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        _add(archive, "data.pkl", _state_dict_pickle(tensors))
        _add(archive, "byteorder", b"little")
        for number, tensor in enumerate(tensors.values()):
            _add(archive, f"data/{number}", tensor.astype(tensor.dtype.newbyteorder("<")).tobytes())
        _add(archive, "version", b"3\n")
    return buffer.getvalue()


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    """One stored entry whose data starts at a multiple of 64, by an extra field of the length it takes."""
    entry = zipfile.ZipInfo(f"{_ROOT}/{name}", date_time=(1980, 1, 1, 0, 0, 0))
    assert archive.fp is not None
    start = archive.fp.tell() + _LOCAL_HEADER + len(entry.filename) + 4
    padding = -start % _ALIGNMENT
    entry.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    archive.writestr(entry, data)


def _state_dict_pickle(tensors: Mapping[str, np.ndarray]) -> bytes:
    """``OrderedDict`` of tensors, in protocol 2; the opcodes are those of Python's pickletools."""
    out = bytearray(b"\x80\x02")  # PROTO 2
    out += _global("collections", "OrderedDict") + b")R("  # (), called; MARK
    for number, (name, tensor) in enumerate(tensors.items()):
        out += _string(name) + _tensor(number, tensor)
    return bytes(out + b"u.")  # SETITEMS, STOP


def _tensor(number: int, tensor: np.ndarray) -> bytes:
    """``_rebuild_tensor_v2(storage, 0, size, stride, False, OrderedDict())``."""
    strides = [stride // tensor.itemsize for stride in np.empty(tensor.shape, tensor.dtype).strides]
    storage = (
        b"("  # ("storage", type, key, location, numel), named by BINPERSID
        + _string("storage")
        + _global("torch", _STORAGES[tensor.dtype])
        + _string(str(number))
        + _string("cpu")
        + _int(tensor.size)
        + b"tQ"
    )
    return (
        _global("torch._utils", "_rebuild_tensor_v2")
        + b"("
        + storage
        + _int(0)
        + _tuple(tensor.shape)
        + _tuple(strides)
        + b"\x89"  # NEWFALSE: requires no gradient
        + _global("collections", "OrderedDict")
        + b")RtR"
    )


def _global(module: str, name: str) -> bytes:
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


def _string(text: str) -> bytes:
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _int(value: int) -> bytes:
    if value < 2**31:
        return b"J" + struct.pack("<i", value)
    return b"\x8a\x08" + struct.pack("<q", value)  # LONG1 of eight bytes


def _tuple(values: tuple[int, ...] | list[int]) -> bytes:
    return b"(" + b"".join(map(_int, values)) + b"t"
