"""Files of safetensors, shards with an index, and pickled NumPy arrays.

`testing/hostile/plain_files.py` has malformed files, and indexes that point outside the folder. The
reader of whole files in `_shared.safetensors` reads the header with the same code.
"""

import json
import pickle
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from jaxlstm._shared.safetensors import read_safetensors, safetensors_bytes
from jaxlstm_converters.checkpoint import CheckpointError, read_checkpoint
from testing.checkpoints.compare import DTYPES, assert_same_bits, assert_same_checkpoint, random_tensor

STATE = torch.nn.LSTM(3, 4, 2).state_dict()
PARTS = [dict(list(STATE.items())[:5]), dict(list(STATE.items())[5:])]


def write(folder: Path, ending: str = "safetensors", **edits: Any) -> Path:
    weight_map = {}
    for number, part in enumerate(PARTS):
        file = f"model-{number}.{ending}"
        if ending == "safetensors":
            save_file(part, folder / file, {"format": "pt"})
        else:
            torch.save(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    index = folder / f"model.{ending}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map | edits}))
    return index


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_shards(tmp_path: Path, ending: str) -> None:
    ours = read_checkpoint(write(tmp_path, ending))
    assert_same_checkpoint(ours, STATE)
    kind = {"safetensors": "safetensors", "bin": "torch zip"}[ending]
    assert ours.container == f"sharded {kind}"
    assert ours.metadata == ({"format": "pt"} if ending == "safetensors" else {})


def test_every_dtype_of_safetensors(tmp_path: Path) -> None:
    names = [name for name in (*DTYPES, "float8_e8m0fnu") if name != "complex128"]
    saved = {name: random_tensor(name, (2, 3)) for name in names} | {"日本.\n": torch.zeros(0, 2)}
    save_file(saved, tmp_path / "a", {"note": "hi"})
    ours = read_checkpoint(tmp_path / "a")
    assert (ours.container, ours.metadata) == ("safetensors", {"note": "hi"})
    assert ours.keys() == saved.keys()
    assert_same_checkpoint(ours, {name: saved[name] for name in ours})


def test_links_inside_the_directory(tmp_path: Path) -> None:
    index = write(tmp_path)
    (tmp_path / "model-1.safetensors").rename(tmp_path / "blob")
    (tmp_path / "model-1.safetensors").symlink_to("blob")
    assert_same_checkpoint(read_checkpoint(index), STATE)


def test_warnings_of_shards(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"w": np.array([np.nan])}))
    (tmp_path / "index.json").write_text(json.dumps({"weight_map": {"w": "a.pkl"}}))
    ours = read_checkpoint(tmp_path / "index.json")
    assert np.isnan(np.asarray(ours["w"]))
    assert ours.warnings == ["'w' holds 1 values that are NaN or infinite"]


def test_index_as_shard(tmp_path: Path) -> None:
    index = write(tmp_path, more="model.safetensors.index.json")
    with pytest.raises(CheckpointError, match=r"\[unknown-format") as caught:
        read_checkpoint(index)
    assert caught.value.path == str(index)


NUMPY_DTYPES = ["?", "i1", "u1", "<i2", "<u4", "<i8", "<f2", "<f4", "<f8", "<c8", "<c16", ">f4", ">i8"]


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    made = {code: (rng.normal(size=(3, 5)) * 9).astype(code) for code in NUMPY_DTYPES}
    made |= {f"T{code}": array.T for code, array in made.items()}
    return made | {
        "F3": np.asfortranarray(rng.normal(size=(2, 3, 4))),
        "scalar": np.array(2.5),
        "empty": np.zeros((0, 3), np.float32),
        "strided": np.arange(20.0)[::3],
    }


def assert_same_arrays(ours: Any, theirs: dict[str, np.ndarray]) -> None:
    assert list(ours) == list(theirs)
    for name, array in theirs.items():
        native = np.ascontiguousarray(array, array.dtype.newbyteorder("=")).reshape(array.shape)
        assert_same_bits(ours[name], native)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles(tmp_path: Path, protocol: int) -> None:
    saved = {"lstm": arrays(), "epoch": np.int64(3), "names": np.array(["a", "b"]), "n": [1, 2.0]}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(saved, protocol))
    ours = read_checkpoint(tmp_path / "a.pkl")
    assert ours.container == "numpy pickle"
    assert_same_arrays(ours, {f"lstm.{name}": array for name, array in arrays().items()})


@pytest.mark.parametrize("order", ["C", "F"])
def test_long_strings_of_old_protocols(tmp_path: Path, order: Any) -> None:
    """Protocols 0 to 2 write bytes as text, whose characters may be split between chunks and blocks."""
    rng = np.random.default_rng(0)
    saved = {
        "large": np.asarray(rng.normal(size=(1100, 2100)), order=order),
        "small": np.asarray(rng.normal(size=(120, 140)), order=order),
    }
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(saved, 2))
    assert_same_arrays(read_checkpoint(tmp_path / "a.pkl"), saved)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (b"ctorch._utils\n_rebuild_tensor_v2\n(NNNNNtR", "has 5 arguments, expected 6"),
        (b"cnumpy\ndtype\n(NNNNtR", "has 4 arguments, expected 1"),
        (b"ccollections\nOrderedDict\nK\1\x85R", "OrderedDict are not a list of pairs"),
        (b"ccollections\nOrderedDict\n]K\1a\x85R", "an item of OrderedDict is not a pair"),
        (b"ctorch.storage\n_load_from_bytes\nK\1\x85R", "a storage in a pickle is not stored as bytes"),
        (b"ctorch._utils\n_rebuild_parameter\nK\1K\2K\3\x87R", "a parameter is a value of type int"),
        (b"c_codecs\nencode\nX\3\0\0\0\xe2\x82\xacX\6\0\0\0latin1\x86R", "the text is not Latin-1"),
    ],
)
def test_wrong_arguments_in_a_pickle(call: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(b"\x80\2}X\1\0\0\0a" + call + b"s.")
    with pytest.raises(CheckpointError, match=message) as caught:
        read_checkpoint(tmp_path / "a.pkl")
    assert caught.value.code == "pickle-malformed"


def test_python_2_binary_pickle(tmp_path: Path) -> None:
    """Python 2 writes str, both text and bytes, as SHORT_BINSTRING."""
    array = np.array([1.5, -2.0, 3e30], "<f4")
    head = b"\x80\x02}(U\x01w"
    raw = array.tobytes()
    body = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x03\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U" + bytes([len(raw)]) + raw + b"tb"
    )
    (tmp_path / "a.pkl").write_bytes(head + body + b"u.")
    assert pickle.loads(head + body + b"u.", encoding="latin1")["w"].tolist() == array.tolist()
    assert_same_arrays(read_checkpoint(tmp_path / "a.pkl"), {"w": array})


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


def test_malformed_file(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="declares 18446744073709551616 bytes, expected at most 0"):
        read_safetensors(path)
    for shape in ([-2, -1], [3]):
        header = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 8]}}).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
        with pytest.raises(ValueError, match="does not take 8 bytes"):
            read_safetensors(path)
