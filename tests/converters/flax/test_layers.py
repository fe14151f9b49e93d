"""Every row of the porting table against torch, in NNX and Linen: values, gradients, and the way back."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import jaxlstm
from testing.flax_layers import CASES, LOSSY, LayerCase, call_arguments, example
from testing.modules import randomized


def torch_results(case: LayerCase, layer: torch.nn.Module) -> dict[str, Any]:
    """Return the output, and the gradients of ``(output * weights).sum()`` by torch's names."""
    x = torch.tensor(example(case), requires_grad=bool(case.shape))
    y = case.run_torch(layer, x)
    (y * torch.tensor(_weights(y.shape))).sum().backward()
    results = {"output": y, **{name: p.grad for name, p in layer.named_parameters()}}
    if case.shape:
        results["inputs"] = x.grad
    return {name: t.detach().numpy() for name, t in results.items()}


# The parameters of a filled model, its call ``call(params, *args)``, and its state dict.
Filled = tuple[Any, Callable[..., Any], Callable[[Any], dict[str, np.ndarray]]]


def filled_nnx(case: LayerCase, layer: torch.nn.Module) -> Filled:
    model = case.flax(nnx.Rngs(0))
    assert jaxlstm.load_state_dict(model, layer).complete
    abstract = nnx.eval_shape(lambda: case.flax(nnx.Rngs(0)))
    jaxlstm.load_state_dict(abstract, layer)
    jax.tree.map(np.testing.assert_array_equal, jaxlstm.state_dict(abstract), jaxlstm.state_dict(model))
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    return (
        params,
        lambda params, *args: nnx.merge(graph, params, rest, copy=True)(*args),
        lambda params: jaxlstm.state_dict(nnx.merge(graph, params, rest)),
    )


def filled_linen(case: LayerCase, layer: torch.nn.Module) -> Filled:
    module, inputs = case.linen(), call_arguments(case, jnp.asarray(example(case)))
    variables: Any = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    variables = dict(jaxlstm.linen.load_state_dict(module, variables, layer, inputs=inputs))
    return (
        variables.get("params", {}),
        lambda params, *args: module.apply({**variables, "params": params}, *args),
        lambda params: jaxlstm.linen.state_dict(module, {**variables, "params": params}, inputs=inputs),
    )


def flax_results(case: LayerCase, filled: Filled) -> dict[str, Any]:
    """Return the same of a Flax layer."""
    params, call, state_dict = filled

    def loss(params: Any, x: Any) -> Any:
        y = case.to_torch(case.run_flax(partial(call, params), case.to_flax(x)))
        return (y * _weights(y.shape)).sum(), y

    argnums = (0, 1) if case.shape else (0,)
    compute = jax.jit(jax.value_and_grad(loss, argnums, has_aux=True))
    (_, y), gradients = compute(params, jnp.asarray(example(case)))
    return {"output": y, **dict(zip(["inputs"], gradients[1:], strict=False)), **state_dict(gradients[0])}


def _weights(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape)


@pytest.mark.parametrize("fill", [filled_nnx, filled_linen])
@pytest.mark.parametrize("name", CASES)
def test_layer(fill: Callable[..., Filled], name: str) -> None:
    case = CASES[name]
    layer = randomized(case.torch()).double().eval()
    expected = torch_results(case, layer)
    with jax.enable_x64(True), warnings.catch_warnings():
        warnings.simplefilter("ignore", jaxlstm.PortingWarning)  # settings are not under test here
        filled = fill(case, layer)
        actual = flax_results(case, filled)
        restored = filled[2](filled[0])
    if fill is filled_nnx:
        actual.pop("weight_g", None)  # the scales of nnx.WeightNorm are plain arrays without a gradient
    for key in expected.keys() & actual.keys():
        atol = case.atol
        if (
            name.startswith("BatchNorm") and fill is filled_linen
        ):  # it adds epsilon to the variance in float32
            atol = 1e-6 if key == "output" else 5e-6
        # The gradient of the sum of two biases is under the name bias_ih.
        if not (name in LOSSY and key.startswith("bias_hh")):
            np.testing.assert_allclose(actual[key], expected[key], rtol=0, atol=atol, err_msg=key)
    assert {"output", *(["inputs"] if case.shape else [])} <= actual.keys()
    assert all(
        key.endswith(("weight_g", "original0", "original1")) for key in expected.keys() - actual.keys()
    )
    if name not in LOSSY:
        assert_restores(case, layer, restored)


def assert_restores(case: LayerCase, layer: torch.nn.Module, state_dict: dict[str, np.ndarray]) -> None:
    """Assert that torch takes the state dict, and that it has the bits of the layer."""
    other = case.torch().double()
    other.load_state_dict(state_dict)
    assert list(other.state_dict()) == list(layer.state_dict())
    for key, tensor in layer.state_dict().items():
        assert torch.equal(other.state_dict()[key], tensor), key
