"""Every row of the porting table against torch: values, gradients, and the way back."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import jaxlstm
from tests.support.flax_layers import CASES, LOSSY, LayerCase, example, randomized


def load(model: nnx.Module, source: Any, **kwargs: Any) -> Any:
    """Fill a model whose settings are not under test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jaxlstm.PortingWarning)
        return jaxlstm.load_state_dict(model, source, **kwargs)


def state_dict(model: nnx.Module) -> dict[str, np.ndarray]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jaxlstm.PortingWarning)
        return jaxlstm.state_dict(model)


def torch_results(case: LayerCase, layer: torch.nn.Module, weights: np.ndarray) -> dict[str, Any]:
    """Return the output, and the gradients of ``(output * weights).sum()``."""
    x = torch.tensor(example(case), requires_grad=bool(case.shape))
    y = case.run_torch(layer, x)
    (y * torch.tensor(weights)).sum().backward()
    results = {"output": y, **{f"d{name}": p.grad for name, p in layer.named_parameters()}}
    return {name: t.detach().numpy() for name, t in results.items()} | {"dx": x.grad}


def flax_results(case: LayerCase, model: nnx.Module, weights: np.ndarray) -> dict[str, Any]:
    """Return the same of the Flax layer, with its gradients under torch's names."""

    def loss(model: Any, x: Any) -> Any:
        y = case.to_torch(case.run_flax(model, case.to_flax(x)))
        return (y * weights).sum(), y

    x = jnp.asarray(example(case))
    argnums = (0, 1) if case.shape else 0
    scales = isinstance(model, nnx.WeightNorm)
    (_, y), gradients = nnx.jit(nnx.value_and_grad(loss, argnums=argnums, has_aux=True))(model, x)
    gradients, dx = gradients if case.shape else (gradients, None)
    nnx.update(model, gradients)
    # The scales of WeightNorm are no Params, so Flax returns no gradient for them.
    named = {} if scales else state_dict(model)
    return {"output": y, "dx": dx, **{f"d{name}": g for name, g in named.items()}}


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name: str) -> None:
    case = CASES[name]
    layer = randomized(case.torch()).eval()
    with jax.enable_x64(True):
        model = case.flax(nnx.Rngs(0))
        result = load(model, layer)
        assert result.complete
        shape = case.run_torch(layer, torch.tensor(example(case))).shape
        weights = np.random.default_rng(1).standard_normal(shape)
        expected = torch_results(case, layer, weights)
        actual = flax_results(case, model, weights)
    compared = set(expected) & set(actual)
    assert {"output", "dx"} <= compared
    for key in compared:
        if name in LOSSY and key.startswith("dbias_hh"):
            continue
        if expected[key] is None:
            continue
        np.testing.assert_allclose(actual[key], expected[key], rtol=0, atol=case.atol, err_msg=key)


@pytest.mark.parametrize("name", [name for name in CASES if name not in LOSSY])
def test_back_to_torch(name: str) -> None:
    """The state dict is torch's, bit for bit, and torch takes it."""
    case = CASES[name]
    layer = randomized(case.torch())
    with jax.enable_x64(True):
        model = case.flax(nnx.Rngs(0))
        load(model, layer)
        restored = jaxlstm.state_dict(model)
    other = case.torch().double()
    other.load_state_dict(restored)
    assert list(other.state_dict()) == list(layer.state_dict())
    for key, tensor in layer.state_dict().items():
        assert torch.equal(other.state_dict()[key], tensor), key
