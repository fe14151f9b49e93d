"""PyTorch's own samples of arguments for its operators (``op_db``), run by torch and as a program."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import jax
import numpy as np
import torch
from torch.testing._internal.common_methods_invocations import op_db
from torch.utils import _pytree as pytree

from jaxlstm.models.program import Program
from tests.support.fx_graphs import program_of_function, to_numpy

# Samples that random numbers or uninitialized memory enter, or that torch itself cannot trace, are left out.
_Function = Callable[..., tuple[torch.Tensor, ...]]


@cache
def op_infos() -> dict[str, Any]:
    """Return every OpInfo by its name, with its variant ("div.floor_rounding")."""
    return {op.name + f".{op.variant_test_name}".rstrip("."): op for op in op_db}


def samples(name: str, dtype: torch.dtype, most: int) -> Iterator[tuple[_Function, list[torch.Tensor]]]:
    """Yield at most ``most`` samples of an operator, spread evenly: (function of its tensors, tensors)."""
    op = op_infos()[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = list(op.sample_inputs("cpu", dtype))
    for index in sorted({round(i) for i in np.linspace(0, len(found) - 1, most)}):
        sample = found[index]
        leaves, structure = pytree.tree_flatten((sample.input, sample.args, sample.kwargs))
        yield (
            _function(op, leaves, structure),
            [leaf.detach() for leaf in leaves if isinstance(leaf, torch.Tensor)],
        )


def _function(op: Callable[..., Any], leaves: Sequence[Any], structure: Any) -> _Function:
    def function(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        remaining = iter(tensors)
        filled = [next(remaining) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        first, args, kwargs = pytree.tree_unflatten(filled, structure)
        return tuple(pytree.tree_leaves(op(first, *args, **kwargs)))

    return function


def require_equal_results(function: _Function, tensors: Sequence[torch.Tensor], *, jit: bool = False) -> None:
    """Assert that a function and its program give equal results for tensors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = function(*(tensor.clone() for tensor in tensors))
        program = program_of_function(function, [tensor.clone() for tensor in tensors])
    arrays = [to_numpy(tensor) for tensor in tensors]
    results = (jax.jit(program) if jit else program)({}, *arrays)
    assert len(results) == len(expected)
    for result, wanted in zip(results, expected, strict=True):
        require_close(result, to_numpy(wanted))


def require_equal_gradients(function: _Function, tensors: Sequence[torch.Tensor]) -> None:
    """Assert that a function and its program have equal gradients for random cotangents."""
    leaves = [tensor.clone().requires_grad_(tensor.is_floating_point()) for tensor in tensors]
    expected = [result for result in function(*leaves) if result.requires_grad]
    cotangents = [torch.randn_like(result) for result in expected]
    wanted = torch.autograd.grad(
        expected, [leaf for leaf in leaves if leaf.requires_grad], cotangents, allow_unused=True
    )
    program = program_of_function(function, [tensor.clone() for tensor in tensors])
    for result, gradient in zip(_gradients(program, tensors, cotangents), wanted, strict=True):
        if gradient is not None:
            require_close(result, to_numpy(gradient))


def _gradients(
    program: Program, tensors: Sequence[torch.Tensor], cotangents: Sequence[torch.Tensor]
) -> Sequence[jax.Array]:
    arrays = [to_numpy(tensor) for tensor in tensors]
    places = [index for index, tensor in enumerate(tensors) if tensor.is_floating_point()]

    def differentiable(*floats: jax.Array) -> list[jax.Array]:
        filled: list[Any] = list(arrays)
        for place, array in zip(places, floats, strict=True):
            filled[place] = array
        results = program({}, *filled)
        return [result for result in results if np.issubdtype(result.dtype, np.floating)]

    _, backward = jax.vjp(differentiable, *(jax.numpy.asarray(arrays[place]) for place in places))
    return backward([jax.numpy.asarray(to_numpy(cotangent)) for cotangent in cotangents])


def require_close(result: Any, expected: np.ndarray) -> None:
    """Assert equal shapes and dtypes, equal integers, and floats within float32's or half precision's error."""
    assert result.shape == expected.shape
    if jax.config.read("jax_enable_x64"):
        assert result.dtype == expected.dtype
    if expected.dtype.kind in "biu":
        np.testing.assert_array_equal(result, expected)
        return
    epsilon = float(jax.numpy.finfo(result.dtype).eps)
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    tolerance = 100 * epsilon
    np.testing.assert_allclose(
        np.asarray(result, wide), expected.astype(wide), rtol=tolerance, atol=tolerance
    )
