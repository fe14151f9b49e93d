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
    "torch.add(x, y, alpha=2)": "x + 2 * y",
    "h + s": "jaxlstm.programs.call('aten.add.Tensor', h, other=s)",
    "i / i": "i / i",
    'torch.div(x, 2.0, rounding_mode="floor")': "x // 2.0",
    'torch.div(x, y, rounding_mode="trunc")': "jnp.trunc(x / y)",
    "i // 2": "i // 2",
    "x * 1.0": "x",
    "c.imag": "c.imag",
    "torch.complex(v, v)": "lax.complex(v, v)",
    "x.transpose(-2, -1)": "x.mT",
    "torch.arange(0, 2, dtype=torch.uint8)": (
        "jaxlstm.programs.call('aten.arange.start', 2, dtype=jnp.uint8)"
    ),
    "torch.remainder(x, 2)": "x % 2",
    "x ** 2.0": "x ** 2",
    "2 ** x": "2 ** x",
    "x.clamp(min=0.5)": "jnp.maximum(x, 0.5)",
    "i.masked_fill(b, 0)": "jnp.where(b, 0, i)",
    "x.masked_fill(b, s)": "jnp.where(b, s, x)",
    "torch.where(b, x, 0)": "jnp.where(b, x, 0)",
    "torch.logical_or(i, i)": "jnp.logical_or(i, i)",
    "x.round(decimals=2)": "jaxlstm.programs.call('aten.round.decimals', x, decimals=2)",
    "i.floor()": "i",
    "h.sigmoid()": "jaxlstm.programs.call('aten.sigmoid.default', h)",
    "torch.addcmul(x, y, y)": "x + y * y",
    "torch.addcmul(i, i, i)": "jaxlstm.programs.call('aten.addcmul.default', i, tensor1=i, tensor2=i)",
    "torch.logit(x)": "jnp.log(x / (1 - x))",
    "F.hardtanh(x)": "nnx.hard_tanh(x)",
    "F.elu(x, 0.5)": "nnx.elu(x, alpha=0.5)",
    'F.gelu(x, approximate="tanh")': "nnx.gelu(x, approximate=True)",
    "F.softplus(x)": "nnx.softplus(x)",
    "F.softplus(x, 1, 3)": "jaxlstm.programs.call('aten.softplus.default', x, threshold=3)",
    "F.prelu(y, v)": "jnp.where(y > 0, y, v * y)",
    "F.prelu(x, v[:3])": "jaxlstm.programs.call('aten.prelu.default', x, weight=v[:3])",
    "F.softmax(x, -1)": "nnx.softmax(x)",
    "F.leaky_relu(x, 0.2)": "nnx.leaky_relu(x, negative_slope=0.2)",
    "F.softmax(s, 0)": "jaxlstm.programs.call('aten.softmax.int', s, dim=0)",
    "F.glu(x)": "nnx.glu(x)",
    "x.view(2, 3, 4)": "x",
    "s.view(1)": "s.reshape(1)",
    "x.flatten()": "x.reshape(-1)",
    "x.flatten(1, 1)": "x",
    "w.flatten(1, 2)": "w.reshape(w.shape[0], -1, w.shape[-1])",
    "s.flatten()": "s.reshape(1)",
    "x.unflatten(0, (2, 1))": "x.reshape(2, 1, *x.shape[1:])",
    "w[:1].squeeze(0)": "jnp.squeeze(w[:1], 0)",
    "w[:1].squeeze()": "w[:1].squeeze()",
    "x.squeeze(1)": "x",
    "x.squeeze(())": "x",
    "v.expand_as(y)": "jnp.broadcast_to(v, y.shape)",
    "x.transpose(1, 2)": "x.swapaxes(1, 2)",
    "y.t()": "y.T",
    "x.transpose(1, 1)": "x",
    "x.permute(0, 2, 1)": "x.transpose(0, 2, 1)",
    "v.repeat(1, 2)": "jnp.tile(v, (1, 2))",
    "v.repeat_interleave(2)": "jnp.repeat(v, 2)",
    "torch.cat([x, x], 1)": "jnp.concatenate([x, x], 1)",
    "torch.cat([x])": "x",
    "torch.cat([v, v[:0]])": "jaxlstm.programs.call('aten.cat.default', (v, v[:0]))",
    'torch.meshgrid(v, v, indexing="ij")': "jnp.meshgrid(v, v, indexing='ij')",
    "x.flip(1, 2)": "jnp.flip(x, axis=(1, 2))",
    "x.roll((1, 2), (0, 1))": "jnp.roll(x, (1, 2), axis=(0, 1))",
    "F.one_hot(t, 5)": "nnx.one_hot(t, 5, dtype=int)",
    "c.to(torch.float32)": "jaxlstm.programs.call('aten.to.dtype', c, dtype=float)",
    "x.narrow(1, 0, 2)": "x[:, :2]",
    "x[:, 0]": "x[:, 0]",
    "x[..., 1:, None]": "x[..., 1:][..., None]",
    "x[b]": "x[b]",
    "x.unsqueeze(-2)": "x[..., None, :]",
    "x.narrow(1, -2, 1)": "jaxlstm.programs.call('aten.narrow.default', x, dim=1, start=-2, length=1)",
    "x.chunk(2, -1)": "jnp.split(x, 2, axis=-1)",
    "x.split(2, 1)": "jnp.split(x, [2], axis=1)",
    "y[:, u[0, 0].long()]": "y[:, u[0][0].astype(int)]",
    "x.index_select(1, t)": "jnp.take(x, t, axis=1)",
    "x.gather(1, i)": "jnp.take_along_axis(x, i, axis=1)",
    "x.scatter(1, i, 1.0)": "jnp.put_along_axis(x, i, 1.0, axis=1, inplace=False)",
    "x.scatter(1, i, x)": "jnp.put_along_axis(x, i, x, axis=1, inplace=False)",
    'x.scatter(1, i, 1.0, reduce="add")': (
        "jaxlstm.programs.call('aten.scatter.value_reduce', x, dim=1, index=i, value=1.0, reduce='add')"
    ),
    "x.index_put((t,), y[None])": "x.at[t].set(y[None])",
    "x.index_put((b,), x[0, 0, :1])": (
        "jaxlstm.programs.call('aten.index_put.default', x, indices=(b,), values=x[0][0][:1])"
    ),
    "torch.select_scatter(x, y, 0, 1)": "x.at[1].set(y)",
    "torch.ops.aten.copy(x, x)": "x",
    "F.embedding(t, y)": "y[t]",
    "x.new_zeros(2, 3)": "jnp.zeros((2, 3))",
    "torch.zeros_like(x, dtype=torch.bool)": "jnp.zeros_like(x, dtype=bool)",
    "torch.full((2,), 1)": "jnp.full(2, 1)",
    "torch.full((), 0.5)": "jnp.array(0.5)",
    "torch.arange(1, 9, 2)": "jnp.arange(1, 9, 2)",
    "torch.arange(4, dtype=torch.float32)": "jnp.arange(4, dtype=float)",
    "torch.arange(4.0)": "jnp.arange(4.0)",
    "torch.eye(3, 4)": "jnp.eye(3, 4)",
    "b.sum(1)": "b.sum(axis=1)",
    "u.sum(1)": "u.sum(axis=1, dtype=int)",
    "s.sum()": "jaxlstm.programs.call('aten.sum.default', s)",
    "i.mean(-1, dtype=torch.float32)": "i.astype(float).mean(axis=-1)",
    "x.max(1)": "(x.max(axis=1), x.argmax(axis=1))",
    "s.max(0)": "jaxlstm.programs.call('aten.max.dim', s, dim=0)",
    "x.argmax(1)": "x.argmax(axis=1)",
    "x.logsumexp(1)": "nnx.logsumexp(x, axis=1)",
    "x.norm(dim=-1)": "jnp.sqrt(jnp.maximum(jnp.square(x).sum(axis=-1), 1e-30))",
    "x.norm(p=1, dim=-1)": "jnp.abs(x).sum(axis=-1)",
    "x.std(1, unbiased=False)": "x.std(axis=1)",
    "h.var(1)": "jaxlstm.programs.call('aten.var.dim', h, dim=(1,))",
    "x.cumsum(1)": "x.cumsum(axis=1)",
    "x.topk(2, 1)": "jaxlstm.programs.call('aten.topk.default', x, k=2, dim=1)",
    "x.topk(2)": "lax.top_k(x, 2)",
    "x.sort()": "(jnp.sort(x), jnp.argsort(x))",
    "s.sort()": "jaxlstm.programs.call('aten.sort.default', s)",
    "x.bmm(x.mT)": "x @ x.mT",
    "F.linear(x, v)": "x @ v",
    "F.linear(h, h[0])": "jaxlstm.programs.call('aten.linear.default', h, weight=h[0])",
    "torch.addmm(v, y, m)": "v + y @ m",
    "torch.addmm(i[0], i[0], i[0, 0].expand(4, 4))": (
        "jaxlstm.programs.call('aten.addmm.default', i[0], mat1=i[0], mat2=jnp.broadcast_to(i[0][0], (4, 4)))"
    ),
    'torch.einsum("bij,jk->bik", x, m)': "jnp.einsum('bij,jk->bik', x, m)",
    "F.scaled_dot_product_attention(x, x, x)": "nnx.softmax(x @ x.mT / x.shape[-1] ** 0.5) @ x",
    "F.scaled_dot_product_attention(x, x, x, b[..., :3])": (
        "nnx.softmax(x @ x.mT / x.shape[-1] ** 0.5, where=b[..., :3]) @ x"
    ),
    "F.scaled_dot_product_attention(x, x, x, x[..., :3], scale=0.5)": (
        "nnx.softmax(0.5 * (x @ x.mT) + x[..., :3]) @ x"
    ),
    "F.scaled_dot_product_attention(h, h, h)": (
        "jaxlstm.programs.call('aten.scaled_dot_product_attention.default', h, key=h, value=h)"
    ),
    "F.conv2d(w, k, v, padding=1, stride=2)": (
        "lax.conv_general_dilated(w, k, (2, 2), ((1, 1), (1, 1))) + v[:, None, None]"
    ),
    'F.conv1d(x, x, padding="same")': (
        "lax.conv_general_dilated(x, x, (1,), 'SAME', dimension_numbers=('NCW', 'OIW', 'NCW'))"
    ),
    "F.conv_transpose1d(x, x[0][:, None], v[:1], 2)": (
        "lax.conv_transpose(x, x[0][:, None], (2,), ((3, 3),), dimension_numbers=('NCW', 'OIW', 'NCW'), "
        "transpose_kernel=True) + v[:1, None]"
    ),
    "F.conv2d(w[0], k)": "jaxlstm.programs.call('aten.conv2d.default', w[0], weight=k)",
    "F.max_pool1d(x, 3, 1, 1)": (
        "lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 3), (1, 1, 1), ((0, 0), (0, 0), (1, 1)))"
    ),
    "F.max_pool1d(x, 2, dilation=2)": (
        "jaxlstm.programs.call('aten.max_pool1d.default', x, kernel_size=(2,), padding=(0,), dilation=(2,))"
    ),
    "F.adaptive_avg_pool2d(w, (1, 4))": "w.mean(axis=2, keepdims=True)",
    "F.adaptive_avg_pool2d(w, 4)": "w",
    "F.adaptive_avg_pool2d(w, 2)": (
        "jaxlstm.programs.call('aten.adaptive_avg_pool2d.default', w, output_size=(2, 2))"
    ),
    "F.pad(x, (1, 2))": "jnp.pad(x, ((0, 0), (0, 0), (1, 2)))",
    "F.pad(x, (0, 0))": "x",
    "F.pad(x, (1, -1))": "jaxlstm.programs.call('aten.pad.default', x, pad=(1, -1))",
    "F.interpolate(w, scale_factor=2)": "jnp.repeat(jnp.repeat(w, 2, axis=2), 2, axis=3)",
    "F.interpolate(w, size=(7, 4))": (
        "jaxlstm.programs.call('aten.upsample_nearest2d.vec', w, output_size=(7, 4))"
    ),
    "torch._weight_norm(k, k[:, :1, :1, :1])": (
        "k * (k[:, :1, :1][..., :1] / jnp.sqrt(jnp.square(k).sum(axis=(1, 2, 3), keepdims=True)))"
    ),
    "torch.hann_window(5)": "jaxlstm.programs.call('aten.hann_window.default', 5, dtype=float)",
    "i.detach()": "i",
    "x.clamp(min=s, max=h[0, 0])": "jaxlstm.programs.call('aten.clamp.Tensor', x, min=s, max=h[0][0])",
    "x.roll((1,))": "jnp.roll(x, 1)",
    "u.masked_fill(b, -1)": "jaxlstm.programs.call('aten.masked_fill.Scalar', u, mask=b, value=-1)",
    "F.avg_pool1d(x, 2)": "lax.reduce_window(x, 0.0, lax.add, (1, 1, 2), (1, 1, 2), 'VALID') / 2",
    "F.max_pool2d(w.long(), 2)": (
        "jaxlstm.programs.call('aten.max_pool2d.default', w.astype(int), kernel_size=(2, 2))"
    ),
    "torch.ops.aten.split_with_sizes(x, [2, 2], 2)": "jnp.split(x, 2, axis=2)",
    "torch.sub(u, -1)": "jaxlstm.programs.call('aten.sub.Tensor', u, other=-1)",
    'torch.div(x, y, rounding_mode="floor")': (
        "jaxlstm.programs.call('aten.div.Tensor_mode', x, other=y, rounding_mode='floor')"
    ),
    "~b": "~b",
    "torch.logical_not(i)": "jnp.logical_not(i)",
    "torch.full_like(x, 2)": "jnp.full_like(x, 2)",
    "torch.scalar_tensor(2.0)": "jnp.array(2.0)",
    "torch.hstack([x, x])": "jnp.hstack([x, x])",
    "x.gather(1, i[:, :, :1])": "jaxlstm.programs.call('aten.gather.default', x, dim=1, index=i[..., :1])",
    "torch.slice_scatter(x, i[:, :1], 1, 0, 1)": (
        "jaxlstm.programs.call('aten.slice_scatter.default', x, src=i[:, :1], dim=1, start=0, end=1)"
    ),
    "v[u[0, 0]]": "jaxlstm.programs.call('aten.index.Tensor', v, indices=(u[0][0],))",
    "F.avg_pool2d(w, 2)": "lax.reduce_window(w, 0.0, lax.add, (1, 1, 2, 2), (1, 1, 2, 2), 'VALID') / 4",
    "F.interpolate(w, scale_factor=1.5)": (
        "jaxlstm.programs.call('aten.upsample_nearest2d.vec', w, output_size=None, scale_factors=(1.5, 1.5))"
    ),
    "torch.stack([x, i[:, :1].expand(2, 3, 4)])": "jnp.stack([x, jnp.broadcast_to(i[:, :1], (2, 3, 4))])",
    "u.cumsum(1)": "u.cumsum(axis=1, dtype=int)",
    "x.narrow(1, 1, 2)": "x[:, 1:3]",
    "x.expand(2, 3, 4)": "x",
}
