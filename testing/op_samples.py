"""PyTorch's own samples of arguments for its operators (``op_db``), run by torch and as a program."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import jax
import numpy as np
import torch
from torch.testing._internal.common_methods_invocations import op_db
from torch.utils import _pytree as pytree

from testing.graphs import program_of_function, to_numpy

_Function = Callable[..., tuple[torch.Tensor, ...]]


@cache
def op_infos() -> dict[str, Any]:
    """Return every OpInfo by its name, with its variant ("div.floor_rounding")."""
    return {op.name + f".{op.variant_test_name}".rstrip("."): op for op in op_db}


def samples(
    name: str, dtype: torch.dtype, most: int, synonym: Callable[..., Any] | None = None
) -> Iterator[tuple[_Function, list[torch.Tensor]]]:
    """Yield at most ``most`` samples of an operator, spread evenly: (function of its tensors, tensors).

    The function calls the operator, or ``synonym`` in its place.
    """
    info = op_infos()[name]
    differentiable = (dtype.is_floating_point or dtype.is_complex) and info.supports_autograd
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = list(info.sample_inputs("cpu", dtype, requires_grad=differentiable))
    for index in sorted({round(i) for i in np.linspace(0, len(found) - 1, most)}):
        sample = found[index]
        leaves, structure = pytree.tree_flatten((sample.input, sample.args, sample.kwargs))
        yield (
            _function(synonym or info, leaves, structure),
            [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)],
        )


def has_gradient(name: str) -> bool:
    """Return True if an operator is differentiable in torch, and its gradient there exact."""
    # torch ignores the gradients of the statistics of native norms, and multiplies by a sixth in float32
    # in the gradient of hardsigmoid.
    # Exponentials in the gradient of logcumsumexp round numbers of 10,000, and the series in the gradient of
    # digamma ends at 1e-10.
    statistics = ("native_layer_norm", "_native_batch_norm_legit")
    differs = (*statistics, "nn.functional.hardsigmoid", "logcumsumexp", "digamma")
    return op_infos()[name].supports_autograd and name not in differs


def _function(op: Callable[..., Any], leaves: Sequence[Any], structure: Any) -> _Function:
    def function(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        remaining = iter(tensors)
        filled = [next(remaining) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        first, args, kwargs = pytree.tree_unflatten(filled, structure)
        return tuple(pytree.tree_leaves(op(first, *args, **kwargs)))

    return function


def require_equal_results(function: _Function, tensors: Sequence[torch.Tensor], *, jit: bool = False) -> None:
    """Assert that a function and its program give equal results for tensors."""
    copies = [tensor.detach().clone() for tensor in tensors]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = function(*(tensor.clone() for tensor in copies))
        program = program_of_function(function, [tensor.clone() for tensor in copies])
    arrays = [to_numpy(tensor) for tensor in copies]
    results = (jax.jit(program) if jit else program)({}, *arrays)
    assert len(results) == len(expected)
    for result, wanted in zip(results, expected, strict=True):
        require_close(result, to_numpy(wanted))


def require_equal_gradients(function: _Function, tensors: Sequence[torch.Tensor]) -> None:
    """Assert that a function and its program have equal gradients for random cotangents."""
    copies = [tensor.detach().clone() for tensor in tensors]
    leaves = [copy.clone().requires_grad_(t.requires_grad) for copy, t in zip(copies, tensors, strict=True)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = function(*leaves)
        program = program_of_function(function, copies)
    arrays = list(map(to_numpy, copies))
    inputs = {place: leaf for place, leaf in enumerate(leaves) if leaf.requires_grad}
    outputs = {place: result for place, result in enumerate(results) if result.requires_grad}
    cotangents = {place: torch.randn_like(result) for place, result in outputs.items()}
    expected = torch.autograd.grad(
        list(outputs.values()), list(inputs.values()), list(cotangents.values()), allow_unused=True
    )

    def differentiable(given: dict[int, Any]) -> dict[int, Any]:
        found = program({}, *(given.get(place, array) for place, array in enumerate(arrays)))
        return {place: found[place] for place in outputs}

    def gradients(given: dict[int, Any], cotangents: dict[int, Any]) -> dict[int, Any]:
        return jax.vjp(differentiable, given)[1](cotangents)[0]

    # A mask as an index works outside of jit only.
    has_mask = any(tensor.dtype == torch.bool for tensor in tensors)
    run = gradients if has_mask else jax.jit(gradients)
    # The gradient by a complex number is the conjugate of torch's.
    seeds = {place: np.conj(to_numpy(cotangent)) for place, cotangent in cotangents.items()}
    actual = run({place: arrays[place] for place in inputs}, seeds)
    for place, gradient in zip(inputs, expected, strict=True):
        if gradient is not None:
            require_close(jax.numpy.conj(actual[place]), to_numpy(gradient))


def require_close(result: Any, expected: np.ndarray) -> None:
    """Assert equal shapes, dtypes and integers, and floats that differ by rounding."""
    assert result.shape == expected.shape
    if jax.config.read("jax_enable_x64"):
        assert result.dtype == expected.dtype
    if expected.dtype.kind in "biu":
        np.testing.assert_array_equal(result, expected)
        return
    epsilon = float(jax.numpy.finfo(result.dtype).eps)
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    actual, expected = np.asarray(result, wide), expected.astype(wide)
    # Sums of products cancel, so an error is relative to the largest element.
    scale = max(1.0, float(np.abs(expected[np.isfinite(expected)]).max(initial=0)))
    np.testing.assert_allclose(actual, expected, rtol=100 * epsilon, atol=100 * epsilon * scale)
