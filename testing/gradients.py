"""Values and gradients of a program beside its module's."""

from collections.abc import Callable
from types import MethodType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import Tensor, nn

from testing.graphs import to_numpy


def require_equal(
    program: Any, model: nn.Module | MethodType, *args: Any, jit: bool = True, atol: float = 1e-5
) -> list[Any]:
    """Require torch's values, and its gradients with respect to parameters and arguments that require one.

    Where torch has fewer elements than a result under ``jit``, NaN or the smallest number must follow them.
    Returns the results.
    """
    args = jax.tree.map(lambda arg: arg.detach().clone().requires_grad_(arg.requires_grad), args)
    expected = [torch.as_tensor(leaf) for leaf in jax.tree.leaves(model(*args))]
    module: Any = model.__self__ if isinstance(model, MethodType) else model
    module.zero_grad()
    # The sine of a large number is a matter of its rounding.
    sizes = [
        float(np.max(np.abs(x).astype(float), where=np.isfinite(x), initial=1.0))
        for x in map(to_numpy, expected)
    ]
    scaled = zip(expected, sizes, strict=True)
    if terms := [(leaf / size).sin().sum() for leaf, size in scaled if leaf.requires_grad]:
        torch.stack(terms).sum().backward()

    def loss(params: Any, inputs: Any) -> Any:
        leaves = jax.tree.leaves(program(params, *inputs))
        parts = [_torchs_part(*pair) for pair in zip(leaves, expected, strict=True)]
        terms = [
            jnp.sin(part / size).sum()
            for part, size in zip(parts, sizes, strict=True)
            if jnp.issubdtype(part.dtype, jnp.floating)
        ]
        return sum(terms, jnp.zeros(())), leaves

    differentiated = jax.grad(loss, (0, 1), has_aux=True, allow_int=True)
    run = jax.jit(differentiated) if jit else differentiated
    (of_params, of_inputs), actual = run(program.params, jax.tree.map(to_numpy, args))
    for ours, theirs in zip(actual, expected, strict=True):
        np.testing.assert_allclose(_torchs_part(ours, theirs), to_numpy(theirs), atol=atol)
        assert np.shape(ours) == theirs.shape or (jit and _is_unknown(np.asarray(ours)[len(theirs) :]))
    named = [(name, of_params[name], p) for name, p in module.named_parameters() if name in of_params]
    pairs = zip(jax.tree.leaves(of_inputs), jax.tree.leaves(args), strict=True)
    named += [("argument", ours, arg) for ours, arg in pairs if arg.requires_grad]
    gradients = [np.zeros(t.shape) if t.grad is None else to_numpy(t.grad) for _, _, t in named]
    largest = [float(np.max(np.abs(gradient), initial=0.0)) for gradient in gradients]
    for (name, ours, _), theirs, size in zip(named, gradients, largest, strict=True):
        # A gradient that is zero up to rounding is measured by the largest of all.
        scale = min(1.0, max(size, 1e-2 * max(largest)))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=10 * atol * scale, err_msg=name)
    return actual


def require_results(
    program: Any,
    model: Callable[..., Any],
    *args: Any,
    jit: bool | None = None,
    hides: bool = False,
    atol: float = 0.0,
    rtol: float = 0.0,
) -> None:
    """Require torch's results of a program, with ``jit`` or without it; by default in both ways.

    With ``hides``, values that ``jit`` does not know decide otherwise, and its results are NaN.
    """
    host = jax.tree.map(lambda arg: to_numpy(arg) if torch.is_tensor(arg) else arg, args)
    if not jit:
        assert_close(program(program.params, *host), model(*args), atol, rtol)
    if jit is not False:
        results = jax.jit(program)(program.params, *host)
        if hides:
            assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(results))
        else:
            assert_close(results, model(*args), atol, rtol)


def assert_close(actual: Any, expected: Any, atol: float, rtol: float = 1e-5) -> None:
    """Compare results with torch's: structure, shapes, dtypes and values."""
    expected = jax.tree.map(lambda leaf: to_numpy(leaf) if torch.is_tensor(leaf) else leaf, expected)
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for ours, theirs in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert np.shape(ours) == np.shape(theirs)
        if isinstance(theirs, np.ndarray):
            assert ours.dtype.name == theirs.dtype.name.replace("int64", "int32")
        wide = complex if np.iscomplexobj(theirs) else float
        np.testing.assert_allclose(np.asarray(ours, wide), np.asarray(theirs, wide), rtol=rtol, atol=atol)


def _torchs_part(ours: Any, theirs: Tensor) -> Any:
    return jnp.asarray(ours)[tuple(map(slice, theirs.shape))]


def _is_unknown(elements: np.ndarray) -> bool:
    is_float = np.issubdtype(elements.dtype, np.floating)
    return bool((np.isnan(elements) if is_float else elements == np.iinfo(elements.dtype).min).all())
