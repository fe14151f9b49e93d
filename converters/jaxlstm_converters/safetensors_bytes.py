"""The bytes of a safetensors file: https://github.com/huggingface/safetensors#format.

Eight bytes of header length, a JSON header padded with spaces to a multiple of eight, then the tensors
without gap or overlap. Writing it ourselves lets it be written atomically, in bfloat16 too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import ml_dtypes
import numpy as np

DTYPE_CODES = {
    np.dtype(np.float64): "F64",
    np.dtype(np.float32): "F32",
    np.dtype(np.float16): "F16",
    np.dtype(ml_dtypes.bfloat16): "BF16",
}


def safetensors_bytes(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """One file's bytes: the tensors, C-contiguous and little-endian, and strings for its header."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    blobs: list[bytes] = []
    offset = 0
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPE_CODES:
            raise TypeError(f"{name} must be a float array, got {tensor.dtype}")
        blob = np.ascontiguousarray(tensor, tensor.dtype.newbyteorder("<")).tobytes()
        header[name] = {
            "dtype": DTYPE_CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + len(blob)],
        }
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(blobs)
