"""A tensor works in expressions like the array that it is read as, and is read without what Windows lacks."""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch

from jaxlstm import read_checkpoint
from jaxlstm_converters.checkpoint import Tensor
from testing.processes import run_python


@pytest.fixture
def tensors(tmp_path: Path) -> dict[str, Tensor]:
    state = {"w": torch.randn(3, 4), "v": torch.randn(4), "b": torch.randn(3, 4, dtype=torch.bfloat16)}
    torch.save(state, tmp_path / "m.pt")
    return read_checkpoint(tmp_path / "m.pt")


def test_operators_and_functions(tensors: dict[str, Tensor]) -> None:
    w, v = tensors["w"], tensors["v"]
    a, b = np.asarray(w), np.asarray(v)
    pairs = (
        (w.T, a.T),
        (w.transpose(), a.T),
        (w.transpose(1, 0), a.T),
        (w.transpose((1, 0)), a.T),
        (np.transpose(w), a.T),
        (w + 1, a + 1),
        (2 * w, 2 * a),
        (w - w, a - a),
        (-w / 3, -a / 3),
        (w @ v, a @ b),
        (w.T @ w, a.T @ a),
        (a @ v, a @ b),
        (w > 0, a > 0),
        (w == a, a == a),
        (a != w, a != a),
        (np.exp(w), np.exp(a)),
        (np.sum(w, axis=0), a.sum(axis=0)),
        (np.max(w), a.max()),
        (np.add.accumulate(w), np.add.accumulate(a)),
        (np.concatenate([w, w]), np.concatenate([a, a])),
        (np.linalg.norm(w), np.linalg.norm(a)),
        (jnp.asarray(w) + 1, a + 1),
    )
    assert type(w.T) is np.ndarray
    for found, expected in pairs:
        np.testing.assert_array_equal(found, expected)
    bfloat16 = tensors["b"] + tensors["b"]
    assert bfloat16.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(bfloat16, np.asarray(tensors["b"]) * 2)


def test_a_tensor_cannot_be_changed(tensors: dict[str, Tensor]) -> None:
    w = tensors["w"]
    before = np.asarray(w)
    with pytest.raises(TypeError, match=r"cannot be changed; change numpy\.asarray\(tensor\)"):
        w += 1
    with pytest.raises(TypeError, match="cannot be changed"):
        np.add(before, 1, out=w)  # type: ignore[call-overload]
    with pytest.raises(TypeError):
        np.add.at(w, 0, 1)  # type: ignore[arg-type]
    np.testing.assert_array_equal(tensors["w"], before)
    assert {w: "a key"}[w] == "a key"


def test_comparison_with_other_values_reads_nothing(
    tensors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it reads a file, the reader compares values that may be tensors."""
    w, v = tensors["w"], tensors["v"]
    monkeypatch.setattr(Tensor, "__array__", None)
    for other in ("storage", 1, None, v, (w,)):
        assert (w == other) is (other == w) is False
        assert (w != other) is True
    assert w == w
    assert w in ("storage", w)
    assert w not in ("storage", v)


SCRIPT = """
import os, shutil, sys, numpy as np, ml_dtypes  # what asks for the platform as it is imported
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

sys.platform = "win32"
for name in ("pread", "preadv", "O_NONBLOCK", "O_CLOEXEC"):
    if hasattr(os, name):
        delattr(os, name)
os.O_BINARY, os.O_NOINHERIT = 0, 0

from jaxlstm_converters.checkpoint import CheckpointError, read_checkpoint

checkpoint = read_checkpoint(sys.argv[1])
with ThreadPoolExecutor(8) as pool:
    for name, array in pool.map(lambda n: (n, np.asarray(checkpoint[n])), list(checkpoint) * 4):
        assert (array == int(name)).all(), name
try:
    read_checkpoint(os.path.dirname(sys.argv[1]))
except CheckpointError as error:
    print(len(checkpoint), error.code)
"""


def test_reads_from_many_threads(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    np.savez(path, **{str(k): np.full(300_000, k, np.float32) for k in range(8)})  # type: ignore[arg-type]
    assert run_python("-c", SCRIPT, path).split() == ["8", "not-a-file"]
