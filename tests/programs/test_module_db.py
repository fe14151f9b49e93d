"""Modules on PyTorch's own samples (``module_db``): LSTMs, attention and transformers."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.testing._internal.common_modules import module_db
from torch.utils import _pytree as pytree

from testing.fx_graphs import program_of, to_numpy

# Name -> (samples, samples that torch can export). torch refuses masks whose values decide whether attention
# is causal.
MODULES = {
    "nn.LSTM": (32, 32),
    "nn.LSTMCell": (2, 2),
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
        program = program_of(module, called.args, called.kwargs)
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


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Silence torch's log of exports that it refuses."""
    logger = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


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
