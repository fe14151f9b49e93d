"""Modules on PyTorch's own samples (``module_db``)."""

import warnings
from typing import Any

import jax
import pytest
import torch
from torch.testing._internal.common_modules import module_db
from torch.utils import _pytree as pytree

from jaxlstm import from_module
from testing.gradients import assert_close
from testing.graphs import to_numpy

LAYERS = ["LSTM", "LSTMCell", "GRU", "GRUCell", "RNN", "RNNCell", "MultiheadAttention"]
LAYERS += ["TransformerEncoderLayer", "TransformerDecoderLayer"]
FEW = 2


def samples(name: str) -> list[Any]:
    info = next(info for info in module_db if info.name == f"nn.{name}")
    options = {"device": "cpu", "dtype": torch.float32, "requires_grad": False, "training": False}
    return [(info.module_cls, sample) for sample in info.module_inputs_func(info, **options)]


def require_equal_program(module_class: type[torch.nn.Module], sample: Any) -> None:
    """Assert that a module and its program agree."""
    made, called = sample.constructor_input, sample.forward_input
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nested tensors are off unless batch_first; masks are fixed
        module = module_class(*made.args, **made.kwargs).eval()
        program = from_module(module, called.args, called.kwargs)
    args, kwargs = pytree.tree_map_only(torch.Tensor, to_numpy, (called.args, called.kwargs))
    results = jax.jit(lambda params: program(params, *args, **kwargs))(program.params)
    assert_close(results, module(*called.args, **called.kwargs), 1e-5)


FIRST = [(name, FEW) for name in LAYERS]
ALL = [pytest.param(n, None, marks=pytest.mark.slow) for n in (*LAYERS, "TransformerEncoder", "Transformer")]


@pytest.mark.quick("LSTM-2", "GRUCell-2", "RNN-2", "MultiheadAttention-2", "TransformerEncoderLayer-2")
@pytest.mark.parametrize(("name", "most"), [*FIRST, *ALL])
def test_samples(name: str, most: int | None) -> None:
    found = samples(name)
    assert len(found) >= FEW
    for sample in found[:most]:
        require_equal_program(*sample)
