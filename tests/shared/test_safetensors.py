"""The reader in ``_shared.safetensors`` reads files of the writer, and refuses malformed ones.

`testing/hostile/formats.py` has more of them: the checkpoint reader reads the header with the same code.
"""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from jaxlstm._shared.safetensors import read_safetensors, safetensors_bytes

TENSORS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.array([1.5, -2], ml_dtypes.bfloat16),
    "empty": np.zeros((0, 4), np.float16),
    "scalar": np.float64(3),
}


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"".join(safetensors_bytes(TENSORS, {"key": "value"})))
    found = read_safetensors(path)
    assert list(found) == list(TENSORS)
    for name, array in TENSORS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def file_of(header: object, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(**changes: object) -> dict[str, object]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "declares 18446744073709551616 bytes, expected at most 0"),
        (file_of(b'{"a": 1, "a": 1}', b""), "'a' is set twice"),
        (file_of({"a": entry(shape=[-2, -1])}, bytes(8)), r"shape \[-2, -1\] does not take 8 bytes"),
        (file_of({"a": entry(shape=[3])}, bytes(8)), r"shape \[3\] does not take 8 bytes"),
        (file_of({"a": entry()}, bytes(7)), "the last tensor ends at byte"),
    ],
)
def test_malformed_file(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_safetensors(path)
