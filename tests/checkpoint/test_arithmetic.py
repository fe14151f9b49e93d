"""NumPy's functions read a tensor; many threads read a file, without what Windows lacks."""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxlstm import read_checkpoint
from testing.processes import run_python


def test_numpy_reads_a_tensor(tmp_path: Path) -> None:
    """Comparing a tensor with another value reads nothing: the reader compares values that may be tensors."""
    torch.save({"w": torch.randn(3, 4)}, tmp_path / "m.pt")
    w = read_checkpoint(tmp_path / "m.pt")["w"]
    a = np.asarray(w)
    for function in (np.exp, np.transpose, np.max, np.linalg.norm, jnp.asarray, lambda x: np.add(x, a)):
        np.testing.assert_array_equal(function(w), function(a))  # type: ignore[arg-type]
    assert (w == "storage") is (w == w.storage) is False
    assert w in ("storage", w)
    with pytest.raises(TypeError):
        np.add(a, 1, out=w)  # type: ignore[call-overload]


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
