"""Modules on PyTorch's own samples (``module_db``), and eleven models from their files."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from torch.testing._internal.common_modules import module_db
from torch.utils import _pytree as pytree

from jaxlstm import Program, from_module, load_program
from testing.graphs import to_numpy
from testing.model_shapes import SHAPES

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
    results = pytree.tree_leaves(jax.jit(lambda params: program(params, *args, **kwargs))(program.params))
    expected = pytree.tree_leaves(module(*called.args, **called.kwargs))
    assert len(results) == len(expected)
    for result, wanted in zip(results, expected, strict=True):
        if wanted is None:
            assert result is None
        else:
            np.testing.assert_allclose(result, to_numpy(wanted), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_first_samples(name: str) -> None:
    for sample in samples(name)[:FEW]:
        require_equal_program(*sample)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*LAYERS, "TransformerEncoder", "Transformer"])
def test_all_samples(name: str) -> None:
    found = samples(name)
    assert len(found) >= FEW
    for sample in found:
        require_equal_program(*sample)


FAST = ("tied language model", "voice detector")
MODELS = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in SHAPES]


@pytest.mark.parametrize("name", MODELS)
def test_models(name: str, tmp_path: Path) -> None:
    """Values and gradients, jitted, of a model read from its file, at other sizes than at the export."""
    shape = SHAPES[name]
    module = shape.build()
    from_module(module, shape.arguments(shape.exported_at)).save(tmp_path / "model.pt2")
    program = load_program(tmp_path / "model.pt2")
    for sizes in shape.run_at:
        require_agreement(program, module, shape.arguments(sizes))


def require_agreement(program: Program, module: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
    inputs, spec = pytree.tree_flatten(arguments)
    floating = {f"{k}": x.requires_grad_() for k, x in enumerate(inputs) if x.is_floating_point()}
    outputs = pytree.tree_leaves(module(*arguments))
    cotangents = {k: torch.randn_like(y) for k, y in enumerate(outputs) if y.is_floating_point()}
    sources = {**floating, **dict(module.named_parameters())}
    loss_of_torch = torch.stack([(outputs[k] * cotangent).sum() for k, cotangent in cotangents.items()]).sum()
    found = torch.autograd.grad(loss_of_torch, list(sources.values()), materialize_grads=True)

    def loss(given: dict[str, Any], params: Any) -> tuple[Any, list[Any]]:
        leaves = [given.get(f"{k}", to_numpy(x)) for k, x in enumerate(inputs)]
        actual = pytree.tree_leaves(program(params, *pytree.tree_unflatten(leaves, spec)))
        return sum((actual[k] * cotangent.numpy()).sum() for k, cotangent in cotangents.items()), actual

    compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    given = {k: to_numpy(x) for k, x in floating.items()}
    (_, actual), (by_input, by_param) = compiled(given, program.params)
    assert largest_error(actual, outputs) < 2e-6
    gradients = {**by_input, **by_param}
    assert gradients.keys() == sources.keys()
    assert largest_error([gradients[name] for name in sources], found) < 2e-5


def largest_error(actual: Sequence[Any], expected: Sequence[torch.Tensor]) -> float:
    """Return the largest difference, relative to the largest entry of the same array.

    A gradient that is zero up to rounding, such as for a bias before a normalization, is measured by the
    largest entry of all arrays.
    """
    pairs = [
        (np.asarray(ours, np.float64), to_numpy(theirs))
        for ours, theirs in zip(actual, expected, strict=True)
    ]
    assert all(ours.shape == theirs.shape for ours, theirs in pairs)
    overall = max(np.abs(theirs).max() for _, theirs in pairs)
    return max(
        np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-2 * overall) for ours, theirs in pairs
    )
