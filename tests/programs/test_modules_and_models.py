"""Modules on PyTorch's own samples (``module_db``), and fifteen models from their files, without torch.

Each model is exported with dynamic axes and saved. One process that cannot import torch runs all of them,
jitted, at other sizes than at the export, and compares values and gradients.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.testing._internal.common_modules import module_db
from torch.utils import _pytree as pytree

from jaxlstm import from_module
from testing import programs_child
from testing.graphs import to_numpy
from testing.model_shapes import SHAPES
from testing.model_shapes.shape import file_stem, write_cases
from testing.processes import run_python

# Name -> (samples, samples that torch can export). torch refuses masks whose values decide whether attention
# is causal.
MODULES = {
    "nn.LSTM": (32, 32),
    "nn.LSTMCell": (2, 2),
    "nn.GRU": (16, 16),
    "nn.GRUCell": (2, 2),
    "nn.RNN": (32, 32),
    "nn.RNNCell": (3, 3),
    "nn.MultiheadAttention": (64, 64),
    "nn.TransformerEncoderLayer": (35, 35),
    "nn.TransformerDecoderLayer": (67, 67),
    "nn.TransformerEncoder": (35, 19),
    "nn.Transformer": (64, 32),
}
FEW = 2


def samples(name: str) -> list[Any]:
    info = next(info for info in module_db if info.name == name)
    options = {"device": "cpu", "dtype": torch.float32, "requires_grad": False, "training": False}
    return [(info.module_cls, sample) for sample in info.module_inputs_func(info, **options)]


def agrees(module_class: type[torch.nn.Module], sample: Any) -> bool:
    """Assert that a module and its program agree; return False if torch cannot export the module."""
    made, called = sample.constructor_input, sample.forward_input
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nested tensors are off unless batch_first
        module = module_class(*made.args, **made.kwargs).eval()
    try:
        program = from_module(module, called.args, called.kwargs)
    except GuardOnDataDependentSymNode:
        return False
    args, kwargs = pytree.tree_map_only(torch.Tensor, to_numpy, (called.args, called.kwargs))
    results = pytree.tree_leaves(program(program.params, *args, **kwargs))
    expected = pytree.tree_leaves(module(*called.args, **called.kwargs))
    assert len(results) == len(expected)
    for result, wanted in zip(results, expected, strict=True):
        if wanted is None:
            assert result is None
        else:
            np.testing.assert_allclose(result, to_numpy(wanted), rtol=1e-5, atol=1e-5)
    return True


@pytest.mark.parametrize(
    "name", [name for name in MODULES if name not in ("nn.TransformerEncoder", "nn.Transformer")]
)
def test_first_samples(name: str) -> None:
    assert all(agrees(*sample) for sample in samples(name)[:FEW])


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_all_samples(name: str) -> None:
    found = samples(name)
    exported = sum(agrees(*sample) for sample in found)
    assert (len(found), exported) == MODULES[name]


FAST = ("tied language model", "voice detector")
SLOW = tuple(name for name in SHAPES if name not in FAST)

Report = dict[str, list[dict[str, float]]]


def run_all(folder: Path, names: Sequence[str]) -> Report:
    """Export models, and return the errors of the programs at each of the other sizes."""
    for name in names:
        shape = SHAPES[name]
        module = shape.build()
        from_module(module, shape.arguments(shape.exported_at)).save(folder / f"{file_stem(name)}.pt2")
        write_cases(folder, name, shape, module)
    return json.loads(run_python(programs_child.__file__, folder, *map(file_stem, names)))


@pytest.fixture(scope="module")
def fast_report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return run_all(tmp_path_factory.mktemp("fast"), FAST)


@pytest.fixture(scope="module")
def slow_report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return run_all(tmp_path_factory.mktemp("slow"), SLOW)


def require_agreement(report: Report, name: str) -> None:
    cases = report[file_stem(name)]
    assert len(cases) == len(SHAPES[name].run_at)
    for errors in cases:
        assert errors["values"] < 2e-6
        assert errors["gradients"] < 2e-5


@pytest.mark.parametrize("name", FAST)
def test_fast_models(fast_report: Report, name: str) -> None:
    require_agreement(fast_report, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_other_models(slow_report: Report, name: str) -> None:
    require_agreement(slow_report, name)
