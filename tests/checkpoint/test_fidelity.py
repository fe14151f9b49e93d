"""Random state dicts in every container that torch can write are read bit for bit.

The expected bits never pass through torch: each tensor is a view, given by sizes and strides, of random
bytes. NumPy gathers the expected elements; torch only saves its view.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from jaxlstm_converters.checkpoint import Checkpoint, read_checkpoint
from testing.checkpoints.compare import DTYPES

# Per container; there are three.
EXAMPLES = 200

thorough = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    report_multiple_bugs=False,
    # No shrinking: the examples are small.
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@dataclass(frozen=True, eq=False)
class SavedLeaf:
    """A tensor and its content: dtype name, shape and bytes in row-major order."""

    tensor: torch.Tensor
    dtype: str
    shape: tuple[int, ...]
    raw: bytes


@st.composite
def leaves(draw: st.DrawFn, dtypes: list[str]) -> list[SavedLeaf]:
    """Draw views of random bits: whole, transposed, strided, expanded, overlapping, empty, scalar."""
    dtype, numel = draw(st.sampled_from(dtypes)), draw(st.integers(0, 40))
    kind = getattr(torch, dtype)
    bits = np.random.default_rng(draw(st.integers(0, 1 << 32))).integers(
        0, 256, (numel, kind.itemsize), np.uint8
    )
    bits = bits % 2 if dtype == "bool" else bits
    flat = torch.from_numpy(bits.reshape(-1).copy()).view(kind) if numel else torch.empty(0, dtype=kind)
    made = []
    for _ in range(draw(st.integers(1, 3))):
        shape, strides, offset = draw(geometries(numel))
        steps = [8 * stride for stride in strides]
        places = np.lib.stride_tricks.as_strided(np.arange(numel + 1)[offset:], shape, steps)
        tensor = flat.as_strided(shape, strides, offset)
        made.append(SavedLeaf(tensor, dtype, shape, bits[places.reshape(-1)].tobytes()))
    return made


@st.composite
def geometries(draw: st.DrawFn, numel: int) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Draw sizes, strides and offset, in elements, of a view of a storage."""
    if numel == 0 or draw(st.integers(0, 9)) == 0:
        return tuple(draw(st.permutations([0, draw(st.integers(0, 3)), 2]))), (2, 1, 1), 0
    offset = draw(st.integers(0, numel - 1))
    shape, strides, room = [], [], numel - 1 - offset
    for _ in range(draw(st.integers(0, 4))):
        stride = draw(st.integers(0, 6))
        most = room // stride + 1 if stride else 3
        size = draw(st.integers(1, min(most, 6)))
        room -= (size - 1) * stride
        shape.append(size)
        strides.append(stride)
    return tuple(shape), tuple(strides), offset


def flat_leaves(dtypes: list[str]) -> st.SearchStrategy[list[SavedLeaf]]:
    """Draw views of one or several storages."""
    return st.lists(leaves(dtypes), min_size=1, max_size=3).map(lambda many: list(chain(*many)))


# Names contain no ".", because "." joins names and no two tensors may get the same name.
KEYS = st.text(st.characters(exclude_characters=".", exclude_categories=["Cs"]), max_size=9)


def as_parameter(leaf: SavedLeaf, is_parameter: bool) -> torch.Tensor:
    """Return the tensor or a Parameter of it."""
    kind = leaf.tensor.dtype
    able = kind.is_floating_point or kind.is_complex
    return torch.nn.Parameter(leaf.tensor, requires_grad=able) if is_parameter else leaf.tensor


def assert_same(ours: Checkpoint, expected: dict[str, SavedLeaf]) -> None:
    """Assert equal names in the same order, with equal dtype, shape and bits."""
    assert list(ours) == list(expected)
    for name, leaf in expected.items():
        array = np.asarray(ours[name])
        assert (array.dtype.name, array.shape) == (leaf.dtype, leaf.shape)
        assert ours[name].dtype == array.dtype
        assert array.tobytes() == leaf.raw, name


@st.composite
def trees(draw: st.DrawFn) -> tuple[dict[Any, Any], dict[str, SavedLeaf]]:
    """Draw nested dicts of tensors and Parameters with names in any script, and the expected content."""
    tree: dict[Any, Any] = {"epoch": 3, "note": "ünï"}
    folders: list[tuple[tuple[str, ...], dict[Any, Any]]] = [((), tree)]
    for leaf in draw(flat_leaves(DTYPES)):
        path, folder = draw(st.sampled_from(folders))
        key = draw(KEYS.filter(lambda key, folder=folder: key not in folder))
        if draw(st.booleans()):
            path, folder = (*path, key), folder.setdefault(key, {})
            folders.append((path, folder))
            key = draw(KEYS)
        folder[key] = replace(leaf, tensor=as_parameter(leaf, draw(st.booleans())))
    return _released(tree), _in_order(tree, ())


def _in_order(tree: Any, path: tuple[str, ...]) -> dict[str, SavedLeaf]:
    """Return the expected names, in the order of the dicts."""
    if isinstance(tree, SavedLeaf):
        return {".".join(path): tree}
    members = tree.items() if isinstance(tree, dict) else ()
    return {name: leaf for key, value in members for name, leaf in _in_order(value, (*path, key)).items()}


def _released(tree: Any) -> Any:
    """Return the tree with tensors instead of leaves."""
    if isinstance(tree, dict):
        return {key: _released(value) for key, value in tree.items()}
    return tree.tensor if isinstance(tree, SavedLeaf) else tree


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fidelity") / "saved"


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@thorough
@given(trees(), st.sampled_from([2, 3, 4, 5]))
def test_trees(path: Path, zipped: bool, made: tuple[Any, dict[str, SavedLeaf]], protocol: int) -> None:
    torch.save(made[0], path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    ours = read_checkpoint(path)
    assert ours.container == ("torch zip" if zipped else "torch legacy")
    assert_same(ours, made[1])


SAFE = [name for name in (*DTYPES, "float8_e8m0fnu") if name != "complex128"]


@thorough
@given(st.dictionaries(KEYS, leaves(SAFE).map(lambda many: many[0]), min_size=1, max_size=6))
def test_safetensors(path: Path, made: dict[str, SavedLeaf]) -> None:
    """The safetensors library accepts no views and sorts the tensors in its own order."""
    saved = {name: leaf.tensor.contiguous().clone() for name, leaf in made.items()}
    save_file(saved, path, {"note": "hi"})
    ours = read_checkpoint(path)
    assert (ours.container, ours.metadata) == ("safetensors", {"note": "hi"})
    assert ours.keys() == made.keys()
    assert_same(ours, {name: made[name] for name in ours})
