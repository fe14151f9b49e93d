"""The small valid files from which the fuzzer starts, at least one per container.

`corpus/` holds files written by torch, numpy, safetensors and onnx, so that a seed and an index name the
same file on every machine. `python -m tools.fuzz.seeds` regenerates them. A folder is a sharded
checkpoint whose index is the file to open.
"""

from __future__ import annotations

import pickle
import shutil
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent / "corpus"
# Small files are read quickly, so more mutants fit into a run.
MAX_BYTES = 20_000


@dataclass(frozen=True)
class Seed:
    """A checkpoint: its files by name, and the name of the file to open."""

    name: str
    files: dict[str, bytes]
    opened: str


@cache
def seeds() -> tuple[Seed, ...]:
    """Return all seeds, sorted by name."""
    return tuple(_seed(path) for path in sorted(HERE.iterdir()))


def _seed(path: Path) -> Seed:
    if path.is_file():
        return Seed(path.stem, {"file": path.read_bytes()}, "file")
    files = {part.name: part.read_bytes() for part in sorted(path.iterdir())}
    return Seed(path.name, files, "index.json")


def write(folder: Path) -> None:
    """Write the seed files; needs torch, safetensors and onnx."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with warnings.catch_warnings():
        # torch.jit and torch.ao warn that they are deprecated.
        warnings.simplefilter("ignore")
        for make in (_torch, _torchscript, _plain_pickles, _arrays, _safetensors, _onnx, _odd):
            make(folder)
    for path in folder.rglob("*.*"):
        assert path.stat().st_size <= MAX_BYTES, path


def _torch(folder: Path) -> None:
    import torch

    from tests.support.checkpoints.trees import TREES

    small = torch.nn.LSTM(2, 1, bidirectional=True)
    saved: dict[str, Any] = {name: make() for name, make in TREES.items()}
    saved["state_dict"] = torch.nn.LSTM(3, 2, proj_size=1).state_dict()
    saved["module"] = torch.nn.Sequential(small, torch.nn.BatchNorm1d(2))
    saved["dtypes"] = {
        name: torch.arange(4).to(getattr(torch, name))
        for name in ("bfloat16", "float8_e5m2", "uint16", "complex64", "bool", "int8", "float64")
    }
    saved["weight_norm"] = torch.nn.utils.parametrizations.weight_norm(
        torch.nn.LSTM(2, 1), "weight_hh_l0"
    ).state_dict()
    for name, value in saved.items():
        torch.save(value, folder / f"zip-{name}.pt")
        # A legacy file contains the source of its classes, which would make it too large.
        if name != "module":
            torch.save(value, folder / f"legacy-{name}.pt", _use_new_zipfile_serialization=False)
    quantized = torch.ao.quantization.quantize_dynamic(
        torch.nn.Sequential(torch.nn.LSTM(2, 1)), {torch.nn.LSTM}
    )
    torch.save(quantized, folder / "zip-quantized.pt")
    torch.save(small.state_dict(), folder / "zip-protocol_4.pt", pickle_protocol=4)


def _torchscript(folder: Path) -> None:
    import torch

    module = torch.nn.Sequential(torch.nn.LSTM(2, 1))
    torch.jit.save(torch.jit.trace(module, torch.ones(1, 1, 2)), folder / "script-trace.pt")
    frozen = torch.jit.freeze(torch.jit.script(torch.nn.Linear(2, 1).eval()))
    torch.jit.save(frozen, folder / "script-frozen.pt")


def _plain_pickles(folder: Path) -> None:
    import numpy as np
    import torch

    state = dict(torch.nn.LSTM(2, 1).state_dict())
    arrays = {
        "lstm": {name: tensor.numpy() for name, tensor in state.items()},
        "F": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big": np.arange(3, dtype=">i4"),
        "records": np.zeros(2, [("a", "i4")]),
        "objects": np.array([{}, "x"], object),
        "scalar": np.float32(2),
        "empty": np.zeros((0, 2), "f2"),
    }
    for protocol in (2, 3, 4, 5):
        (folder / f"numpy-{protocol}.pkl").write_bytes(pickle.dumps(arrays, protocol))
        if protocol > 2:
            (folder / f"pickle-{protocol}.pkl").write_bytes(pickle.dumps(state, protocol))


def _arrays(folder: Path) -> None:
    import numpy as np

    made: dict[str, Any] = {
        "weight_ih_l0": np.ones((4, 2), "f4"),
        "weight_hh_l0": np.asfortranarray(np.ones((4, 1), ">f4")),
        "names": np.array(["a"]),
        "0": np.array(1 + 2j),
    }
    np.savez(folder / "arrays.npz", **made)
    np.save(folder / "array.npy", made["weight_hh_l0"])


def _safetensors(folder: Path) -> None:
    import json

    import torch
    from safetensors.torch import save_file

    from jaxlstm_converters.lstm._from_torch import from_torch
    from jaxlstm_converters.write._save import save

    module = torch.nn.LSTM(2, 1)
    state = dict(module.state_dict())
    more = {"bf16": torch.zeros(2, 3, dtype=torch.bfloat16), "empty": torch.zeros(0, 4)}
    save_file(state | more, folder / "plain.safetensors", {"format": "pt"})
    save(folder / "ours.safetensors", *from_torch(module))
    names = list(state)
    for ending, write in {
        "safetensors": lambda part, path: save_file(part, path),
        "bin": lambda part, path: torch.save(part, path),
    }.items():
        inside = folder / f"shards-{ending}"
        inside.mkdir()
        weight_map = {name: f"{number // 2}.{ending}" for number, name in enumerate(names)}
        for file in set(weight_map.values()):
            part = {name: state[name] for name in names if weight_map[name] == file}
            write(part, inside / file)
        index = {"metadata": {"total_size": 64}, "weight_map": weight_map}
        (inside / "index.json").write_text(json.dumps(index))


def _onnx(folder: Path) -> None:
    import numpy as np
    import torch
    from onnx import helper, numpy_helper

    from tests.support.checkpoints import onnx_files

    onnx_files.write(folder / "layers.onnx", torch.nn.LSTM(2, 1, 2, bidirectional=True), layout=1)
    weights = {"W": (1, 4, 2), "R": (1, 4, 1), "B": (1, 8)}
    constants = [
        helper.make_node(
            "Constant", [], [name], value=numpy_helper.from_array(np.ones(shape, "f4"))
        )
        for name, shape in weights.items()
    ]
    lstm = helper.make_node("LSTM", ["x", *weights], ["y"], activations=["Sigmoid", "Tanh", "Tanh"])
    inner = helper.make_graph([*constants, lstm], "then", [], [])
    other = helper.make_graph([], "else", [], [])
    branch = helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=other)
    typed = helper.make_tensor("typed", 1, [2], [1.0, 2.0])
    onnx_files.save(folder / "branches.onnx", [branch], [typed])


def _odd(folder: Path) -> None:
    """Write formats that no current library writes: torch 0.1's tar, ZIP64, Lightning, big-endian."""
    import numpy as np

    from tests.support.checkpoints.assemble import WEIGHT, ZipBox, archive
    from tests.support.checkpoints.tar_files import write_tar
    from tests.support.hostile import archives, tensors

    arrays = {"lstm.w": np.ones((2, 3), np.float32), "b": np.ones((2, 2), np.float32)}
    write_tar(folder / "tar.pt", arrays)
    wide = archives._wide(archives.SOURCES["zip"]())
    (folder / "zip64.pt").write_bytes(archive(wide))
    for number, case in enumerate(tensors._accepted(ZipBox)):
        if case.number == 32:
            assert isinstance(case.write, bytes)
            (folder / f"lightning-{number}.pt").write_bytes(case.write)
    members = archives.SOURCES["zip"]()
    for member in members:
        if member.name == "m/byteorder":
            member.data = b"big"
        elif member.name == "m/data/0":
            member.data = WEIGHT.astype(">f4").tobytes()
    (folder / "big_endian.pt").write_bytes(archive(members))


if __name__ == "__main__":
    write(HERE)
