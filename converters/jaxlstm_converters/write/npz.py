"""Write the bytes of a .npz file, with the config as a text beside the parameters."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping

import numpy as np

from jaxlstm.layer.config_json import METADATA_KEY

_EPOCH = (1980, 1, 1, 0, 0, 0)
# Entries of this size get ZIP64 fields, whose layout depends on the version of Python.
_LARGE = 1 << 30


def npz_bytes(tensors: Mapping[str, np.ndarray], metadata: str) -> bytes:
    """Return the bytes of a file that ``numpy.load`` opens without pickle.

    The bytes depend only on the arguments and, from 1 GiB a tensor, on the version of Python.

    Args:
      tensors: name -> array.
      metadata: a text, stored under the name :data:`METADATA_KEY` as a NumPy string.

    Raises:
      TypeError: a tensor is bfloat16, which NumPy's format lacks.
    """
    for name, tensor in tensors.items():
        if tensor.dtype.kind != "f":
            raise TypeError(
                f"{name} must be float16, float32 or float64 in a .npz file, got {tensor.dtype}; choose "
                "another format, such as safetensors"
            )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in {**tensors, METADATA_KEY: np.array(metadata)}.items():
            entry, large = zipfile.ZipInfo(f"{name}.npy", _EPOCH), array.nbytes >= _LARGE
            with archive.open(entry, "w", force_zip64=large) as file:
                np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)
    return buffer.getvalue()
