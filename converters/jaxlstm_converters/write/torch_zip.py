"""Write the bytes of a ``torch.save`` file of a state dict, without torch.

The file is a zip archive of stored entries, as torch 1.6 and later write it:

- ``data.pkl``: the state dict as a pickle, in which each tensor is a call of
  ``torch._utils._rebuild_tensor_v2`` on a numbered storage;
- ``byteorder`` and ``version``;
- ``data/0`` and so on: the bytes of the storages, aligned to 64 bytes so that torch can map them into memory;
- ``jaxlstm``: the prefix and config, which torch ignores. It marks the file as written by jaxlstm.

``torch.load(weights_only=True)`` opens it.
Source: torch/serialization.py and caffe2/serialize/inline_container.cc.
"""

import io
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

_ROOT = "archive"
_STORAGES = {
    np.dtype(np.float64): "DoubleStorage",
    np.dtype(np.float32): "FloatStorage",
    np.dtype(np.float16): "HalfStorage",
    np.dtype(ml_dtypes.bfloat16): "BFloat16Storage",
}


def torch_bytes(tensors: Mapping[str, np.ndarray], metadata: str) -> bytes:
    """Return the bytes of a file: an OrderedDict of CPU tensors, each with its own storage."""
    for name, tensor in tensors.items():
        if tensor.dtype not in _STORAGES:
            raise TypeError(f"{name} must be a floating-point array, got {tensor.dtype}")
    return torch_object_bytes(OrderedDict(tensors), metadata)


def torch_object_bytes(value: Any, metadata: str = "") -> bytes:
    """Return the bytes of a file that holds dicts, lists, tuples, numbers, strings, None and arrays."""
    storages: list[np.ndarray] = []
    entries = {
        # PROTO 2, the value, STOP; pickletools names the opcodes.
        "data.pkl": b"\x80\x02" + _object(value, storages) + b".",
        "byteorder": b"little",
        **{
            f"data/{number}": tensor.astype(tensor.dtype.newbyteorder("<")).tobytes()
            for number, tensor in enumerate(storages)
        },
        "version": b"3\n",
        "jaxlstm": metadata.encode(),
    }
    return zip_bytes({f"{_ROOT}/{name}": data for name, data in entries.items()})


def has_marker(path: Path) -> bool:
    """Return True for a file of :func:`torch_bytes`."""
    return has_entry(path, f"{_ROOT}/jaxlstm")


def _object(value: Any, storages: list[np.ndarray]) -> bytes:
    match value:
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int() if value < 2**31:
            return b"J" + struct.pack("<i", value)
        case int():
            return b"\x8a\x08" + struct.pack("<q", value)  # LONG1 of eight bytes
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            data = value.encode()
            return b"X" + struct.pack("<I", len(data)) + data
        case Mapping():
            items = (_object(part, storages) for item in value.items() for part in item)
            start = _ORDERED_DICT if isinstance(value, OrderedDict) else b"}"
            return start + b"(" + b"".join(items) + b"u"
        case list() | tuple():
            items = b"".join(_object(item, storages) for item in value)
            return b"(" + items + b"t" if isinstance(value, tuple) else b"](" + items + b"e"
        case np.ndarray() if value.dtype in _STORAGES:
            return _tensor(value, storages)
        case _Pickled():
            return value
    raise TypeError(f"a file of torch holds plain values and floating-point arrays, got {value!r:.100}")


def _tensor(tensor: np.ndarray, storages: list[np.ndarray]) -> bytes:
    """Return ``_rebuild_tensor_v2(storage, 0, size, stride, False, OrderedDict())``, and add the storage."""
    kind = _global("torch", _STORAGES[tensor.dtype])
    persistent_id = ("storage", kind, str(len(storages)), "cpu", tensor.size)  # (..., key, location, numel)
    storage = _Pickled(_object(persistent_id, storages) + b"Q")  # BINPERSID
    storages.append(tensor)
    strides = tuple(stride // tensor.itemsize for stride in np.empty(tensor.shape, tensor.dtype).strides)
    arguments = (storage, 0, tensor.shape, strides, False, _ORDERED_DICT)
    return _global("torch._utils", "_rebuild_tensor_v2") + _object(arguments, storages) + b"R"  # REDUCE


class _Pickled(bytes):
    """The opcodes of a value."""


def _global(module: str, name: str) -> _Pickled:
    return _Pickled(b"c" + module.encode() + b"\n" + name.encode() + b"\n")


_ORDERED_DICT = _Pickled(_global("collections", "OrderedDict") + b")R")  # EMPTY_TUPLE, REDUCE


_ALIGNMENT = 64
_LOCAL_HEADER = 30  # bytes before the name of an entry


def zip_bytes(entries: Mapping[str, bytes]) -> bytes:
    """Return an archive of these entries, in this order."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in entries.items():
            _add(archive, name, data)
    return buffer.getvalue()


def has_entry(path: Path, name: str) -> bool:
    """Return True if a file is a zip archive with this entry."""
    try:
        with zipfile.ZipFile(path) as archive:
            return name in archive.namelist()
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return False


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    """Add a stored entry; an extra field of the right length aligns its data."""
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    assert archive.fp is not None
    start = archive.fp.tell() + _LOCAL_HEADER + len(entry.filename) + 4
    padding = -start % _ALIGNMENT
    entry.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    archive.writestr(entry, data)
