"""Files of torch.save are read bit for bit, also by NumPy's functions and by many threads."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxlstm_converters.checkpoint import CheckpointError, read_checkpoint
from testing.checkpoints.compare import (
    DTYPES,
    assert_same_bits,
    assert_same_checkpoint,
    flattened,
    random_tensor,
)
from testing.checkpoints.seed import Seed, seeds
from testing.processes import run_python

# Without two seeds: our reader refuses one, and torch 2.13 fails to read an untyped legacy storage.
SEEDS = [
    seed
    for seed in seeds()
    if seed.name.startswith(("zip", "legacy", "pickle", "big"))
    and seed.name not in ("zip-quantized", "legacy-dtypes")
]


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: seed.name)
def test_seeds(tmp_path: Path, seed: Seed) -> None:
    """State dicts, training checkpoints, views, parameters, tied tensors, modules and plain pickles."""
    path = seed.write(tmp_path)
    if seed.name.startswith("pickle"):
        theirs = pickle.loads(path.read_bytes())
    else:
        theirs = torch.load(path, weights_only=False)
    theirs = theirs.state_dict() if isinstance(theirs, torch.nn.Module) else flattened(theirs)
    assert_same_checkpoint(read_checkpoint(path), theirs)


def views_of(dtype: str) -> dict[str, torch.Tensor]:
    """Return a tensor of random bits, and views of it: strided, overlapping, empty, scalar."""
    base = random_tensor(dtype, (4, 6))
    return {
        "whole": base,
        "transposed": base.t(),
        "strided": base[::2, 1::3],
        "pairs": base[:2, :2],
        "expanded": base[1:2].expand(3, 6),
        "overlapping": base.as_strided((3, 4), (2, 1), 5),
        "scalar": base[1, 2],
        "empty": base[4:],
        "no columns": base[:, 6:].t(),
        "nothing": base.as_strided((0, 9), (1, 9), 3),
    }


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_views_of_every_dtype(tmp_path: Path, zipped: bool, protocol: int) -> None:
    saved: dict[str, Any] = {dtype: views_of(dtype) for dtype in DTYPES}
    saved |= {"": {"日本": torch.ones(1)}, "a\nb": {"\U0001f600": torch.nn.Parameter(torch.ones(2))}}
    options: Any = {"_use_new_zipfile_serialization": zipped, "pickle_protocol": protocol}
    torch.save(saved, tmp_path / "a.pt", **options)
    ours = read_checkpoint(tmp_path / "a.pt")
    assert ours.container == ("torch zip" if zipped else "torch legacy")
    expected = {f"{k}.{name}": tensor for k, part in saved.items() for name, tensor in part.items()}
    assert_same_checkpoint(ours, expected)


def test_large_strided_view(tmp_path: Path) -> None:
    # 18 MB, more than one block.
    base = torch.randn(1500, 3000)
    saved = {"t": base.t(), "half": base[::2, 1::3], "column": base[:, 7]}
    torch.save(saved, tmp_path / "a.pt")
    assert_same_checkpoint(read_checkpoint(tmp_path / "a.pt"), saved)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int64", "complex64", "float8_e5m2"])
def test_big_endian(tmp_path: Path, dtype: str) -> None:
    value = random_tensor(dtype, (4, 3))
    torch.save({"w": value, "t": value.t()}, tmp_path / "little.pt")
    part = value.element_size() // (2 if value.is_complex() else 1)
    _rewrite(
        tmp_path / "little.pt",
        tmp_path / "big.pt",
        {
            "little/byteorder": lambda _: b"big",
            "little/data/0": lambda raw: np.frombuffer(raw, f"u{part}").byteswap().tobytes(),
        },
    )
    assert_same_checkpoint(read_checkpoint(tmp_path / "big.pt"), {"w": value, "t": value.t()})


def test_no_byte_order_before_torch_2_1(tmp_path: Path) -> None:
    torch.save({"w": torch.arange(5.0)}, tmp_path / "a.pt")
    gone = {"a/byteorder", "a/.format_version", "a/.storage_alignment", "a/.data/serialization_id"}
    _rewrite(tmp_path / "a.pt", tmp_path / "b.pt", {}, without=gone)
    assert_same_bits(read_checkpoint(tmp_path / "b.pt")["w"], torch.arange(5.0))


def test_files_without_checksums(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": torch.arange(5.0)}, tmp_path / "a.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    with pytest.raises(CheckpointError, match=r"set_crc32_options.*\[crc-mismatch"):
        read_checkpoint(tmp_path / "a.pt")
    assert_same_bits(read_checkpoint(tmp_path / "a.pt", check_crc=False)["w"], torch.arange(5.0))


def test_tensors_are_read_lazily(tmp_path: Path) -> None:
    """A wrong checksum is reported at each read of the tensor."""
    torch.save({"good": torch.arange(4.0), "bad": torch.arange(9.0)[2:]}, tmp_path / "a.pt")
    raw = bytearray((tmp_path / "a.pt").read_bytes())
    raw[raw.index(torch.arange(9.0).numpy().tobytes()) + 33] ^= 1
    (tmp_path / "a.pt").write_bytes(raw)
    ours = read_checkpoint(tmp_path / "a.pt")
    assert_same_bits(ours["good"], torch.arange(4.0))
    for read in (np.asarray, np.asarray, np.sum):
        with pytest.raises(CheckpointError, match=r"\[crc-mismatch") as caught:
            read(ours["bad"])
        assert caught.value.path == str(tmp_path / "a.pt")


def test_array_protocol(tmp_path: Path) -> None:
    torch.save({"w": torch.arange(6.0).reshape(2, 3)}, tmp_path / "a.pt")
    tensor = read_checkpoint(tmp_path / "a.pt")["w"]
    assert (tensor.ndim, tensor.size, tensor.nbytes) == (2, 6, 24)
    assert np.asarray(tensor, dtype=np.int8).dtype == np.int8
    first, second = np.asarray(tensor), np.array(tensor, copy=True)
    first[:] = 0
    assert second.sum() == np.asarray(tensor).sum() == 15
    with pytest.raises(ValueError, match="copy=False"):
        np.array(tensor, copy=False)


class TensorSubclass(torch.Tensor):
    pass


UNSUPPORTED = {
    "quantized": lambda: torch.quantize_per_tensor(torch.randn(4), 0.1, 0, torch.qint8),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "meta": lambda: torch.empty(2, device="meta"),
    "subclass": lambda: torch.ones(2).as_subclass(TensorSubclass),
    "conjugate": lambda: torch.ones(2, dtype=torch.complex64).conj(),
    "negative": lambda: torch._neg_view(torch.ones(2)),  # pyright: ignore[reportPrivateImportUsage]
}


@pytest.mark.filterwarnings("ignore:.*quantiz.*")
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_unsupported_kinds_are_named(tmp_path: Path, kind: str, zipped: bool) -> None:
    saved = {"good": torch.ones(1), "lstm": {"w": UNSUPPORTED[kind]()}}
    torch.save(saved, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    named = "'lstm.w'" if zipped or kind != "quantized" else "QInt8Storage"
    with pytest.raises(CheckpointError, match=named) as caught:
        read_checkpoint(tmp_path / "a.pt")
    assert caught.value.code == "unsupported-tensor"


def test_a_storage_that_is_a_view_is_refused(tmp_path: Path) -> None:
    """As torch wrote it up to 0.4: (key, offset, size) at the end of the persistent id."""
    torch.save({"w": torch.arange(8.0)}, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    raw = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(raw.replace(b"K\x08N", b"K\x08(X\x01\x00\x00\x007K\x02K\x05t"))
    with pytest.raises(CheckpointError, match=r"is a view of another one.*\[unsupported-tensor"):
        read_checkpoint(tmp_path / "a.pt")


ignore_deprecation = pytest.mark.filterwarnings(r"ignore:`torch.jit.\w+` is:DeprecationWarning")


class ScriptedTagger(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = torch.nn.LSTM(5, 4, 2, bidirectional=True)
        self.layers = torch.nn.ModuleList([torch.nn.Linear(8, 3), torch.nn.Linear(3, 2)])
        self.register_buffer("seen", torch.arange(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.lstm(x)[0]
        for layer in self.layers:
            y = layer(y)
        return y


@ignore_deprecation
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("how", ["script", "trace"])
def test_torchscript_names_and_bits(tmp_path: Path, how: str) -> None:
    module = ScriptedTagger()
    make = {"script": torch.jit.script, "trace": lambda m: torch.jit.trace(m, torch.ones(2, 3, 5))}
    torch.jit.save(make[how](module), tmp_path / "a.pt")
    ours = read_checkpoint(tmp_path / "a.pt")
    assert ours.container == "TorchScript"
    constants = {name for name in ours if name.startswith("CONSTANTS.")}
    assert ours.keys() - constants == module.state_dict().keys()
    for name, tensor in module.state_dict().items():
        assert_same_bits(ours[name], tensor)


@ignore_deprecation
def test_frozen_torchscript_module(tmp_path: Path) -> None:
    module = torch.nn.Linear(3, 2).eval()
    torch.jit.save(torch.jit.freeze(torch.jit.script(module)), tmp_path / "a.pt")
    ours = read_checkpoint(tmp_path / "a.pt")
    assert all(name.startswith("CONSTANTS.c") for name in ours)
    arrays = [np.asarray(tensor).tolist() for tensor in ours.values()]
    assert module.weight.tolist() in arrays
    assert module.bias.tolist() in arrays


def _rewrite(
    source: Path, target: Path, edits: dict[str, Any], without: frozenset[str] | set[str] = frozenset()
) -> None:
    """Copy an archive, with some entries edited, omitted, or written as Python's zipfile writes them."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            if name not in without:
                new.writestr(name, edits.get(name, lambda raw: raw)(old.read(name)))


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
    path = tmp_path / "m.pt"
    torch.save({str(k): torch.full((300_000,), float(k)) for k in range(8)}, path)
    assert run_python("-c", SCRIPT, path).split() == ["8", "not-a-file"]


def test_arrays_in_a_program_of_torch_2_7(tmp_path: Path) -> None:
    """The tensors are a file of torch.save, whose pickle may hold the bytes of an array as text."""
    expected = np.arange(6, dtype=np.float32)
    with zipfile.ZipFile(tmp_path / "m.pt2", "w") as archive:
        archive.writestr("serialized_exported_program.json", '{"schema_version": {"major": 8}}')
        for name, value in (("state_dict", {"w": expected}), ("constants", {})):
            with archive.open(f"serialized_{name}.pt", "w") as file:
                torch.save(value, file, pickle_protocol=2)
    np.testing.assert_array_equal(read_checkpoint(tmp_path / "m.pt2")["w"], expected)
