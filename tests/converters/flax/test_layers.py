"""Every row of the porting table against torch, in NNX and Linen: values, gradients, and the way back."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import jaxlstm
from testing.flax_layers import CASES, LOSSY, LayerCase, call_arguments, example, randomized

# Gradients that take long to compile, of layers whose rule has a faster case. test_linen runs them forward.
SLOW = {
    "Conv1d",
    "Conv2d, groups",
    "Conv2d, dilation, no bias",
    "Conv3d",
    "ConvTranspose2d, transpose_kernel",
    "LSTMCell",
    "MultiHeadAttention without bias",
    "MultiHeadAttention, separate",
    "RNN of GRUCell",
    "RNN of LSTMCell",
    "RNN of jaxlstm LSTMCell",
    "RNN of OptimizedLSTMCell without biases",
    "WeightNorm of ConvTranspose1d",
    "WeightNorm of ConvTranspose2d, flipped",
    "jaxlstm LSTM",
    "jaxlstm LSTM, projected",
    "jaxlstm LSTMCell",
}


@contextmanager
def no_porting_warnings() -> Iterator[None]:
    """Ignore warnings about settings, which are not under test here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jaxlstm.PortingWarning)
        yield


def torch_results(case: LayerCase, layer: torch.nn.Module) -> dict[str, Any]:
    """Return the output, and the gradients of ``(output * weights).sum()`` by torch's names."""
    x = torch.tensor(example(case), requires_grad=bool(case.shape))
    y = case.run_torch(layer, x)
    (y * torch.tensor(_weights(y.shape))).sum().backward()
    results = {"output": y, **{name: p.grad for name, p in layer.named_parameters()}}
    if case.shape:
        results["inputs"] = x.grad
    return {name: t.detach().numpy() for name, t in results.items()}


def nnx_results(case: LayerCase, model: nnx.Module) -> dict[str, Any]:
    """Return the same of a Flax layer."""

    def loss(model: Any, x: Any) -> Any:
        y = case.to_torch(case.run_flax(model, case.to_flax(x)))
        return (y * _weights(y.shape)).sum(), y

    argnums = (0, 1) if case.shape else (0,)
    compute = nnx.jit(nnx.value_and_grad(loss, argnums=argnums, has_aux=True))
    (_, y), gradients = compute(model, jnp.asarray(example(case)))
    nnx.update(model, gradients[0])
    with no_porting_warnings():
        named = jaxlstm.state_dict(model)
    if isinstance(model, nnx.WeightNorm):
        named.pop("weight_g")  # the scales of nnx.WeightNorm are plain arrays without a gradient
    return {"output": y, **dict(zip(["inputs"], gradients[1:], strict=False)), **named}


def _weights(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape)


def assert_close(case: LayerCase, actual: dict[str, Any], expected: dict[str, Any], skip: str) -> None:
    for key, value in expected.items():
        if key in actual and not (skip and key.startswith(skip)):
            np.testing.assert_allclose(actual[key], value, rtol=0, atol=case.atol, err_msg=key)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in CASES]
)
def test_nnx(name: str) -> None:
    case = CASES[name]
    layer = randomized(case.torch()).eval()
    with jax.enable_x64(True):
        model = case.flax(nnx.Rngs(0))
        with no_porting_warnings():
            assert jaxlstm.load_state_dict(model, layer).complete
        actual = nnx_results(case, model)
    expected = torch_results(case, layer)
    biases = "bias_hh" if name in LOSSY else ""  # the gradient of the sum is under the name bias_ih
    assert_close(case, actual, expected, biases)
    scales = {key for key in expected if key.endswith(("weight_g", "original0", "original1"))}
    assert expected.keys() - actual.keys() <= scales


def linen_results(case: LayerCase, layer: torch.nn.Module, *, gradients: bool) -> dict[str, Any]:
    """Return the output of a Linen layer or its gradients, and the restored state dict under ``restored``."""
    module, x = case.linen(), jnp.asarray(example(case))
    inputs = call_arguments(case, x)
    variables: Any = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    variables = dict(jaxlstm.linen.load_state_dict(module, variables, layer, inputs=inputs))
    restored = jaxlstm.linen.state_dict(module, variables, inputs=inputs)

    def loss(params: Any) -> Any:
        call = partial(module.apply, {**variables, "params": params})
        y = case.to_torch(case.run_flax(call, case.to_flax(x)))
        return (y * _weights(y.shape)).sum(), y

    params = variables.get("params", {})
    if not gradients:
        return {"output": jax.jit(loss)(params)[1], "restored": restored}
    variables["params"] = jax.jit(jax.grad(loss, has_aux=True))(params)[0]
    return dict(jaxlstm.linen.state_dict(module, variables, inputs=inputs))


@pytest.mark.parametrize("gradients", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CASES)
def test_linen(name: str, gradients: bool) -> None:
    case = CASES[name]
    layer = randomized(case.torch()).eval()
    with jax.enable_x64(True), no_porting_warnings():
        actual = linen_results(case, layer, gradients=gradients)
    restored = actual.pop("restored", None)
    if name.startswith("BatchNorm"):  # Linen's adds epsilon to the variance in float32.
        case = case._replace(atol=5e-6 if gradients else 1e-6)
    assert gradients or "output" in actual
    assert_close(case, actual, torch_results(case, layer), "bias_hh" if name in LOSSY else "")
    if restored is not None and name not in LOSSY:
        assert_restores(case, layer, restored)


@pytest.mark.parametrize("name", [name for name in CASES if name not in LOSSY])
def test_back_to_torch(name: str) -> None:
    case = CASES[name]
    layer = randomized(case.torch())
    with jax.enable_x64(True), no_porting_warnings():
        model = nnx.eval_shape(lambda: case.flax(nnx.Rngs(0)))
        jaxlstm.load_state_dict(model, layer)
        assert_restores(case, layer, jaxlstm.state_dict(model))


def assert_restores(case: LayerCase, layer: torch.nn.Module, state_dict: dict[str, np.ndarray]) -> None:
    """Assert that torch takes the state dict, and that it has the bits of the layer."""
    other = case.torch().double()
    other.load_state_dict(state_dict)
    assert list(other.state_dict()) == list(layer.state_dict())
    for key, tensor in layer.state_dict().items():
        assert torch.equal(other.state_dict()[key], tensor), key
