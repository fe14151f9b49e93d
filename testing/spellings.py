"""Expressions of torch's tensors, and how they are spelled in Flax and ``jax.numpy``."""

from __future__ import annotations

import ast
import warnings
from typing import Any

import torch
from torch.nn import functional

from jaxlstm.programs.graph import Value
from jaxlstm_converters.source.spelling import simplified, spell
from testing.graphs import program_of_function
from testing.spelled import types_of


def tensors() -> dict[str, torch.Tensor]:
    """Return the tensors of the expressions by name."""
    random = torch.Generator().manual_seed(0)

    def positive(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=random) + 0.1

    return {
        "x": positive(2, 3, 4),
        "y": positive(3, 4),
        "v": positive(4),
        "s": torch.tensor(0.5),
        "m": positive(4, 4),
        "w": positive(2, 4, 4, 4),
        "k": positive(4, 4, 3, 3),
        "b": positive(2, 3, 4) > 0.6,
        "t": torch.tensor([1, 0, 1, 1]),
        "i": torch.randint(0, 2, (2, 3, 4), generator=random),
        "u": torch.randint(0, 2, (2, 3, 4), generator=random, dtype=torch.uint8),
        "h": positive(2, 3, 4).bfloat16(),
        "c": positive(3).to(torch.complex64),
    }


def function_of(expression: str, named: dict[str, torch.Tensor]) -> tuple[Any, list[str]]:
    """Return an expression as a function to a tuple of tensors, and the names of its arguments."""
    code = compile(expression, "spellings", "eval")
    names = [name for name in named if name in code.co_names]

    def function(*arguments: torch.Tensor) -> tuple[torch.Tensor, ...]:
        known = {"torch": torch, "F": functional, **dict(zip(names, arguments, strict=True))}
        result = eval(code, known)
        return tuple(result) if isinstance(result, list | tuple) else (result,)

    return function, names


def spelled(expression: str) -> str:
    """Return the spelling of an expression of torch's tensors; that of all results if there are several."""
    named = tensors()
    function, names = function_of(expression, named)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = program_of_function(function, [named[name] for name in names]).graph
    trees: dict[str, ast.expr] = {
        declared.name: ast.Name(name, ast.Load()) for declared, name in zip(graph.inputs, names, strict=True)
    }
    types, tree = types_of(graph, {}), ast.expr()

    def of_value(argument: Any) -> ast.expr:
        assert isinstance(argument, Value)
        return trees[argument.name]

    for node in graph.nodes:
        tree = spell(node, types, of_value).expr
        (first, *others) = node.outputs
        if isinstance(first, str) and not others:
            trees[first] = tree
        for place, name in enumerate(first if isinstance(first, tuple) else node.outputs):
            if isinstance(name, str) and name not in trees:
                trees[name] = ast.Subscript(tree, ast.Constant(place), ast.Load())
    return ast.unparse(simplified(tree))


SPELLINGS = {
    "x + y": "x + y",
    "h + s": None,
    "i / i": "i / i",
    'torch.div(x, 2.0, rounding_mode="floor")': "x // 2.0",
    "i // 2": "i // 2",
    "x.transpose(-2, -1)": "x.mT",
    "torch.arange(0, 2, dtype=torch.uint8)": None,
    "torch.remainder(x, 2)": "x % 2",
    "x ** 2.0": "x ** 2",
    "x.clamp(min=0.5)": "jnp.maximum(x, 0.5)",
    "x.masked_fill(b, s)": "jnp.where(b, s, x)",
    "torch.where(b, x, 0)": "jnp.where(b, x, 0)",
    "x.round(decimals=2)": None,
    "F.elu(x, 0.5)": "nnx.elu(x, alpha=0.5)",
    'F.gelu(x, approximate="tanh")': "nnx.gelu(x, approximate=True)",
    "F.softplus(x)": "nnx.softplus(x)",
    "F.softplus(x, 1, 3)": None,
    "F.prelu(y, v)": "jnp.where(y > 0, y, v * y)",
    "F.softmax(x, -1)": "nnx.softmax(x)",
    "F.glu(x)": "nnx.glu(x)",
    "x.view(2, 3, 4)": "x",
    "s.view(1)": "s.reshape(1)",
    "x.flatten()": "x.reshape(-1)",
    "w.flatten(1, 2)": "w.reshape(w.shape[0], -1, w.shape[-1])",
    "s.flatten()": "s.reshape(1)",
    "x.unflatten(0, (2, 1))": "x.reshape(2, 1, *x.shape[1:])",
    "w[:1].squeeze(0)": "jnp.squeeze(w[:1], 0)",
    "x.squeeze(1)": "x",
    "v.expand_as(y)": "jnp.broadcast_to(v, y.shape)",
    "x.transpose(1, 2)": "x.swapaxes(1, 2)",
    "y.t()": "y.T",
    "x.permute(0, 2, 1)": "x.transpose(0, 2, 1)",
    "v.repeat(1, 2)": "jnp.tile(v, (1, 2))",
    "torch.cat([x, x], 1)": "jnp.concatenate([x, x], 1)",
    "torch.cat([x])": "x",
    "F.one_hot(t, 5)": "nnx.one_hot(t, 5, dtype=int)",
    "x[:, 0]": "x[:, 0]",
    "x[..., 1:, None]": "x[..., 1:][..., None]",
    "x[b]": "x[b]",
    "x.unsqueeze(-2)": "x[..., None, :]",
    "x.chunk(2, -1)": "jnp.split(x, 2, axis=-1)",
    "x.split(2, 1)": "jnp.split(x, [2], axis=1)",
    "x.index_select(1, t)": "jnp.take(x, t, axis=1)",
    "x.gather(1, i)": "jnp.take_along_axis(x, i, axis=1)",
    "x.index_put((t,), y[None])": "x.at[t].set(y[None])",
    "x.index_put((b,), x[0, 0, :1])": None,
    "torch.select_scatter(x, y, 0, 1)": "x.at[1].set(y)",
    "torch.ops.aten.copy(x, x)": "x",
    "F.embedding(t, y)": "y[t]",
    "x.new_zeros(2, 3)": "jnp.zeros((2, 3))",
    "torch.full((2,), 1)": "jnp.full(2, 1)",
    "torch.full((), 0.5)": "jnp.array(0.5)",
    "torch.arange(1, 9, 2)": "jnp.arange(1, 9, 2)",
    "torch.arange(4, dtype=torch.float32)": "jnp.arange(4, dtype=float)",
    "b.sum(1)": "b.sum(axis=1)",
    "s.sum()": None,
    "i.mean(-1, dtype=torch.float32)": "i.astype(float).mean(axis=-1)",
    "x.max(1)": "(x.max(axis=1), x.argmax(axis=1))",
    "x.logsumexp(1)": "nnx.logsumexp(x, axis=1)",
    "x.norm(dim=-1)": "jnp.sqrt(jnp.maximum(jnp.square(x).sum(axis=-1), 1e-30))",
    "x.std(1, unbiased=False)": "x.std(axis=1)",
    "x.cumsum(1)": "x.cumsum(axis=1)",
    "x.topk(2, 1)": None,
    "x.topk(2)": "lax.top_k(x, 2)",
    "x.sort()": "(jnp.sort(x), jnp.argsort(x))",
    "x.bmm(x.mT)": "x @ x.mT",
    "F.linear(x, v)": "x @ v",
    "torch.addmm(v, y, m)": "v + y @ m",
    'torch.einsum("bij,jk->bik", x, m)': "jnp.einsum('bij,jk->bik', x, m)",
    "F.scaled_dot_product_attention(x, x, x)": "nnx.softmax(x @ x.mT / x.shape[-1] ** 0.5) @ x",
    "F.scaled_dot_product_attention(x, x, x, b[..., :3])": (
        "nnx.softmax(x @ x.mT / x.shape[-1] ** 0.5, where=b[..., :3]) @ x"
    ),
    "F.scaled_dot_product_attention(h, h, h)": None,
    "F.adaptive_avg_pool2d(w, (1, 4))": "w.mean(axis=2, keepdims=True)",
    "F.adaptive_avg_pool2d(w, 2)": None,
    "F.pad(x, (1, 2))": "jnp.pad(x, ((0, 0), (0, 0), (1, 2)))",
    "F.pad(x, (0, 0))": "x",
    "F.pad(x, (1, -1))": None,
    "F.interpolate(w, scale_factor=2)": "jnp.repeat(jnp.repeat(w, 2, axis=2), 2, axis=3)",
    "F.interpolate(w, size=(7, 4))": None,
    "torch._weight_norm(m, m[:, :1])": (
        "m * (m[:, :1] / jnp.sqrt(jnp.square(m).sum(axis=1, keepdims=True)))"
    ),
    "u.masked_fill(b, -1)": None,
    'torch.div(x, y, rounding_mode="floor")': None,
    "torch.scalar_tensor(2.0)": "jnp.array(2.0)",
    "x.gather(1, i[:, :, :1])": None,
    "v[u[0, 0]]": None,
}
"""Expression of torch -> its spelling; None for a call of the operator itself."""
