"""Write checkpoints in the tar format of torch 0.1."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import torch


class _Key:
    def __init__(self, key: str) -> None:
        self.key = key


def write_tar(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write a dict of float32 tensors as torch 0.1 did, each as a transposed view from element 1."""
    storages, tensors = io.BytesIO(), io.BytesIO()
    pickle.dump(len(arrays) + 1, storages, 2)
    for key, array in enumerate([np.zeros(0, np.float32), *arrays.values()]):
        pickle.dump((key, "cpu", torch.FloatStorage), storages, 2)
        storages.write(struct.pack("<q", array.size) + array.tobytes())
    # A view: storage 100 is storage 1 without its first element.
    first = next(iter(arrays.values()))
    pickle.dump([(100, 1, 1, first.size - 1)], storages, 2)
    pickle.dump(len(arrays) + 1, tensors, 2)
    for key, array in enumerate(arrays.values(), 1):
        pickle.dump((key, key, torch.FloatTensor), tensors, 2)
        tensors.write(struct.pack("<iiqqqqq", 2, 0, *array.shape[::-1], 1, array.shape[1], 0))
    pickle.dump((50, 100, torch.FloatTensor), tensors, 2)
    tensors.write(struct.pack("<iiqqq", 1, 0, first.size - 2, 1, 1))
    tree = io.BytesIO()
    pickler = pickle.Pickler(tree, 2)
    keys = {name: str(key) for key, name in enumerate(arrays, 1)} | {"view": "50"}
    pickler.persistent_id = lambda value: value.key if isinstance(value, _Key) else None  # type: ignore[method-assign]
    pickler.dump({name: _Key(key) for name, key in keys.items()})
    system = {"protocol_version": 1000, "little_endian": True, "type_sizes": {}}
    members = {
        "sys_info": pickle.dumps(system, 2),
        "pickle": tree.getvalue(),
        "tensors": tensors.getvalue(),
        "storages": storages.getvalue(),
    }
    with tarfile.open(path, "w:", format=tarfile.PAX_FORMAT) as archive:
        for name, raw in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(raw), 1.5
            archive.addfile(info, io.BytesIO(raw))
