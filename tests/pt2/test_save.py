"""Program.save writes files that torch and load_program open, with new parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from torch import nn

import jaxlstm
from jaxlstm_converters.pt2._read_pt2 import read_pt2
from testing.checkpoints.case import CORPUS
from testing.exported import save

NEWEST = CORPUS / "pt2-2.13.pt2"
X = np.random.default_rng(0).normal(size=(5, 3, 2)).astype(np.float32)


def torch_results(path: Path) -> list[np.ndarray]:
    """Return the results of the program in torch."""
    with torch.no_grad():
        results = torch.export.load(path).module()(torch.from_numpy(X), 2.0)
    return [leaf.numpy() for leaf in jax.tree.leaves(results)]


@pytest.mark.parametrize("version", ["2.6", "2.8", "2.13"])
def test_torch_opens_the_file(tmp_path: Path, version: str) -> None:
    """A file of any layout is written in the newest one, and torch computes the same from it."""
    path = tmp_path / "saved.pt2"
    jaxlstm.load_program(CORPUS / f"pt2-{version}.pt2").save(path)
    for actual, expected in zip(torch_results(path), torch_results(NEWEST), strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_new_parameters(tmp_path: Path) -> None:
    program = jaxlstm.load_program(NEWEST)
    params = {name: value * 0.5 for name, value in program.params.items()}
    program.save(tmp_path / "a.pt2", params, buffers={"scale": np.array([3.0, -1.0], np.float32)})
    again = jaxlstm.load_program(tmp_path / "a.pt2")
    for name, value in params.items():
        np.testing.assert_array_equal(again.params[name], value, strict=True)
    ours = jax.tree.leaves(again(again.params, X, 2.0))
    for actual, expected in zip(ours, torch_results(tmp_path / "a.pt2"), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_tied_parameters_stay_tied(tmp_path: Path) -> None:
    """They are one parameter of the program, so training cannot separate them."""
    program = jaxlstm.load_program(NEWEST)
    (alias,), (name,) = program.tied.keys(), program.tied.values()
    assert {alias, name} == {"out.weight", "tied.weight"}
    assert alias not in program.params
    program.save(tmp_path / "tied.pt2", {**program.params, name: np.full((2, 2), 3, np.float32)})
    checkpoint = jaxlstm.read_checkpoint(tmp_path / "tied.pt2")
    assert checkpoint[alias].identity == checkpoint[name].identity
    np.testing.assert_array_equal(checkpoint[alias], 3)
    state = torch.export.load(tmp_path / "tied.pt2").state_dict
    assert state[alias].data_ptr() == state[name].data_ptr()


class Dtypes(nn.Module):
    """Buffers of several dtypes, without axes, empty, strided and not persistent."""

    hidden: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("narrow", torch.tensor([1.5, -2.0], dtype=torch.bfloat16))
        self.register_buffer("empty", torch.ones(0, 3, dtype=torch.int8))
        self.register_buffer("count", torch.tensor(7))
        self.register_buffer("flags", torch.tensor([True, False]))
        self.register_buffer("turned", torch.arange(6.0).reshape(2, 3).T)
        self.register_buffer("hidden", torch.arange(3), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.hidden


def test_dtypes(tmp_path: Path) -> None:
    """Buffers keep their dtypes, although JAX holds int64 as int32."""
    program = save(tmp_path / "a.pt2", Dtypes(), torch.ones(3))
    tensors = read_pt2(tmp_path / "a.pt2")[1]
    jaxlstm.load_program(tmp_path / "a.pt2").save(tmp_path / "b.pt2")
    again = torch.export.load(tmp_path / "b.pt2")
    expected: dict[str, Any] = {**program.state_dict, **program.constants}
    actual: dict[str, Any] = {**again.state_dict, **again.constants}
    assert again.state_dict.keys() == program.state_dict.keys()
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert tensors[name].dtype.name == str(tensor.dtype).removeprefix("torch.")
        assert tensors[name].tolist() == tensor.tolist()
        assert actual[name].dtype == tensor.dtype
        assert torch.equal(actual[name], tensor)


def test_existing_files(tmp_path: Path) -> None:
    """A file of jaxlstm is replaced; any other file only with overwrite=True."""
    program = jaxlstm.load_program(NEWEST)
    program.save(tmp_path / "a.pt2")
    program.save(tmp_path / "a.pt2")
    foreign = tmp_path / "b.pt2"
    foreign.write_bytes(NEWEST.read_bytes())
    with pytest.raises(FileExistsError, match="overwrite=True"):
        program.save(foreign)
    assert foreign.read_bytes() == NEWEST.read_bytes()
    program.save(foreign, overwrite=True)
    assert foreign.read_bytes() == (tmp_path / "a.pt2").read_bytes()


def test_wrong_values(tmp_path: Path) -> None:
    program = jaxlstm.load_program(NEWEST)
    with pytest.raises(jaxlstm.ProgramError, match=r"out\.weight"):
        program.save(tmp_path / "a.pt2", {**program.params, "out.weight": np.zeros((3, 2), np.float32)})
    with pytest.raises(jaxlstm.ProgramError, match="missing"):
        program.save(tmp_path / "a.pt2", {})
    with pytest.raises(TypeError, match="load_program"):
        jaxlstm.Program(*read_pt2(NEWEST)[:2]).save(tmp_path / "a.pt2")
    assert not list(tmp_path.iterdir())
