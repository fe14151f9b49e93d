"""Nodes of traced functions with their spelling, run beside the registered operators."""

import ast
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from jax.scipy import signal
from torch.nn import functional

import jaxlstm
from jaxlstm.programs import Program
from jaxlstm.programs.graph import Node, TensorType, Value, named_results, results_of, uses_of
from jaxlstm.programs.passes.channels_last import channels_last
from jaxlstm_converters.source.spelling import spell
from jaxlstm_converters.source.syntax.simplify import simplified
from testing.graphs import program_of_function, to_numpy
from testing.op_samples import require_close

MODULES = {
    "math": math,
    "jnp": jnp,
    "jax": jax,
    "lax": jax.lax,
    "nnx": nnx,
    "signal": signal,
    "jaxlstm": jaxlstm,
}


def name_of(argument: Any) -> ast.expr:
    """Return the tree of a value: its name."""
    assert isinstance(argument, Value), argument
    return ast.Name(argument.name, ast.Load())


class SpelledNode:
    """A node with its operator and its spelling, as functions of the values that it takes, by name."""

    def __init__(self, node: Node, types: Mapping[str, TensorType], values: Mapping[str, Any]) -> None:
        self.node, self.text = node, ast.unparse(spell(node, types, name_of).expr)
        self.values = {name: values[name] for name in uses_of(node)}

    def operator(self, given: Mapping[str, Any]) -> Any:
        """Run the registered operator."""
        args = (_resolved(value, given) for value in self.node.args)
        kwargs = {key: _resolved(value, given) for key, value in self.node.kwargs.items()}
        return jaxlstm.programs.call(self.node.op, *args, **kwargs)

    def spelled(self, given: Mapping[str, Any]) -> Any:
        """Run the printed expression."""
        return eval(self.text, {**MODULES, **given})

    def results(self, run: Callable[[Mapping[str, Any]], Any], given: Mapping[str, Any]) -> list[Any]:
        """Return the results that the graph uses."""
        return [result for _, result in named_results(self.node, run(given))]

    def require_equal(self, *, gradients: bool) -> None:
        """Assert equal results of equal dtypes, and equal gradients of all arrays of floats."""
        ours, theirs = partial(self.results, self.spelled), partial(self.results, self.operator)
        for actual, expected in zip(ours(self.values), theirs(self.values), strict=True):
            if isinstance(expected, jax.Array):
                actual = jnp.asarray(actual)
                assert actual.dtype == expected.dtype, (actual.dtype, expected.dtype)
                require_close(actual, np.asarray(expected))
            else:
                assert actual == expected
        inputs = {name: a for name, a in self.values.items() if _is_float(a) and gradients}

        def of(run: Callable[[Mapping[str, Any]], list[Any]]) -> Callable[[Mapping[str, Any]], list[Any]]:
            return lambda inputs: [r for r in run({**self.values, **inputs}) if _is_float(r)]

        if inputs:
            results, pull = jax.vjp(of(theirs), inputs)
            random = np.random.default_rng(0)
            seeds = [jnp.asarray(random.standard_normal(r.shape), r.dtype) for r in results]
            (expected,), (actual,) = pull(seeds), jax.vjp(of(ours), inputs)[1](seeds)
            for name in inputs:
                require_close(actual[name], np.asarray(expected[name]))


def _program(function: Callable[..., Any], tensors: Iterable[torch.Tensor]) -> Program:
    """Return the program of a function of tensors, without warnings about how it is traced."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return program_of_function(function, [tensor.detach().clone() for tensor in tensors])


def traced_nodes(function: Callable[..., Any], tensors: Sequence[torch.Tensor]) -> Iterator[SpelledNode]:
    """Yield the nodes of a function of tensors, each with the values that it takes."""
    program = _program(function, tensors)
    graph = channels_last(program.graph, program.constants)
    values = {value: jnp.array(program.constants[name]) for value, name in graph.constants.items()}
    values |= {i.name: jnp.array(to_numpy(t)) for i, t in zip(graph.inputs, tensors, strict=True)}
    types = {name: TensorType(np.dtype(a.dtype), a.shape) for name, a in values.items()} | graph.types
    for node in graph.nodes:
        spelled = SpelledNode(node, types, values)
        yield spelled
        values.update(named_results(node, spelled.operator(values)))


def _resolved(argument: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(argument, tuple):
        return tuple(_resolved(item, values) for item in argument)
    return values[argument.name] if isinstance(argument, Value) else argument


def _is_float(x: Any) -> bool:
    return isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.floating)


def named_tensors() -> dict[str, torch.Tensor]:
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
    }


def function_of(expression: str) -> tuple[Any, dict[str, torch.Tensor]]:
    """Return an expression as a function to a tuple of tensors, and its arguments by name."""
    code = compile(expression, "spellings", "eval")
    named = {name: tensor for name, tensor in named_tensors().items() if name in code.co_names}

    def function(*arguments: torch.Tensor) -> tuple[torch.Tensor, ...]:
        known = {"torch": torch, "F": functional, **dict(zip(named, arguments, strict=True))}
        result = eval(code, known)
        return tuple(result) if isinstance(result, list | tuple) else (result,)

    return function, named


def spelled(expression: str) -> str:
    """Return the spelling of an expression of torch's tensors, or of all results if there are several."""
    function, named = function_of(expression)
    graph = _program(function, named.values()).graph
    trees: dict[str, ast.expr] = {
        declared.name: ast.Name(name, ast.Load()) for declared, name in zip(graph.inputs, named, strict=True)
    }
    types, tree = graph.types, ast.expr()

    def of_value(argument: Any) -> ast.expr:
        assert isinstance(argument, Value)
        return trees[argument.name]

    producers = {name: node for node in graph.nodes for name in results_of(node)}
    for node in graph.nodes:
        tree = spell(node, types, of_value, producers).expr
        (first, *others) = node.outputs
        if isinstance(first, str) and not others:
            trees[first] = tree
        for place, name in enumerate(first if isinstance(first, tuple) else node.outputs):
            if isinstance(name, str) and name not in trees:
                trees[name] = ast.Subscript(tree, ast.Constant(place), ast.Load())
    return ast.unparse(simplified(tree))


SPELLINGS = {
    "i // 2": "i // 2",
    "x.transpose(-2, -1)": "x.mT",
    "x ** 2.0": "x ** 2",
    "x.clamp(min=0.5)": "jnp.maximum(x, 0.5)",
    "x.masked_fill(b, s)": "jnp.where(b, s, x)",
    "torch.where(b, x, 0)": "jnp.where(b, x, 0)",
    "F.elu(x, 0.5)": "nnx.elu(x, alpha=0.5)",
    'F.gelu(x, approximate="tanh")': "nnx.gelu(x)",
    "F.softplus(x)": "nnx.softplus(x)",
    "F.prelu(y, v)": "jnp.where(y > 0, y, v * y)",
    "F.softmax(x, -1)": "nnx.softmax(x)",
    "F.glu(x)": "nnx.glu(x)",
    "x.view(2, 3, 4)": "x",
    "w.flatten(1, 2)": "w.reshape(w.shape[0], -1, w.shape[-1])",
    "s.flatten()": "s.reshape(1)",
    "x.unflatten(0, (2, 1))": "x.reshape(2, 1, *x.shape[1:])",
    "x.squeeze(1)": "x",
    "v.expand_as(y)": "jnp.broadcast_to(v, y.shape)",
    "x.transpose(1, 2)": "x.swapaxes(1, 2)",
    "y.t()": "y.T",
    "x.permute(0, 2, 1)": "x.transpose(0, 2, 1)",
    "torch.cat([x])": "x",
    "F.one_hot(t, 5)": "nnx.one_hot(t, 5, dtype=int)",
    "x[b]": "x[b]",
    "x.unsqueeze(-2)": "x[..., None, :]",
    "x.chunk(2, -1)": "jnp.split(x, 2, axis=-1)",
    "x.split(2, 1)": "jnp.split(x, [2], axis=1)",
    "x.index_select(1, t)": "jnp.take(x, t, axis=1)",
    "x.gather(1, i)": "jnp.take_along_axis(x, i, axis=1)",
    "x.scatter(1, i[:, :2], x[:, :2])": ("jnp.put_along_axis(x, i[:, :2], x[:, :2], axis=1, inplace=False)"),
    "x.index_put((t,), y[None])": "x.at[t].set(y[None])",
    "torch.select_scatter(x, y, 0, 1)": "x.at[1].set(y)",
    "F.embedding(t, y)": "jnp.take(y, t, axis=0)",
    "x.new_zeros(2, 3)": "jnp.zeros((2, 3))",
    "torch.full((), 0.5)": "jnp.array(0.5)",
    "torch.arange(1, 9, 2)": "jnp.arange(1, 9, 2)",
    "torch.arange(4, dtype=torch.float32)": "jnp.arange(4, dtype=float)",
    "i.mean(-1, dtype=torch.float32)": "i.astype(float).mean(axis=-1)",
    "x.max(1)": "(x.max(axis=1), x.argmax(axis=1))",
    "x.logsumexp(1)": "nnx.logsumexp(x, axis=1)",
    "x.norm(dim=-1)": "jnp.sqrt(jnp.maximum(jnp.square(x).sum(axis=-1), 1e-30))",
    "x.topk(2)": "lax.top_k(x, 2)",
    "x.sort()": "(jnp.sort(x), jnp.argsort(x))",
    "F.linear(x, v)": "x @ v",
    'torch.einsum("bij,jk->bik", x, m)': "jnp.einsum('bij,jk->bik', x, m)",
    "F.scaled_dot_product_attention(x, x, x, b[..., :3])": (
        "nnx.softmax(x @ x.mT / x.shape[-1] ** 0.5, where=b[..., :3]) @ x"
    ),
    "F.adaptive_avg_pool2d(w, (1, 4))": "w.mean(axis=2, keepdims=True)",
    "F.pad(x, (1, 2))": "jnp.pad(x, ((0, 0), (0, 0), (1, 2)))",
    "F.pad(x, (0, 0))": "x",
    "F.interpolate(w, scale_factor=2)": "jnp.repeat(jnp.repeat(w, 2, axis=2), 2, axis=3)",
    "torch._weight_norm(m, m[:, :1])": (
        "m * (m[:, :1] / jnp.sqrt(jnp.square(m).sum(axis=1, keepdims=True)))"
    ),
    "torch.scalar_tensor(2.0)": "jnp.array(2.0)",
    "i.sum(0, dtype=torch.int32)": "i.sum(axis=0, dtype=jnp.int32)",
    "x.argsort(0, descending=True)": "jnp.argsort(x, axis=0, descending=True)",
    "x.var(1, correction=2)": "x.var(axis=1, ddof=2)",
    "F.linear(x, m, v)": "x @ m.T + v",
    "torch.addmm(v, y, m, beta=3)": "3 * v + y @ m",
    "F.layer_norm(x, (4,), v, v)": "nnx.standardize(x, variance=x.var(axis=-1, keepdims=True)) * v + v",
    "F.scaled_dot_product_attention(y, y, y, y[:, :3])": (
        "nnx.softmax(y @ y.mT / y.shape[-1] ** 0.5 + y[:, :3], where=y[:, :3] > -jnp.inf) @ y"
    ),
    "F.batch_norm(x, y[:, 0], y[:, 1], y[:, 2])": (
        "nnx.standardize(x, mean=y[:, 0, None], variance=y[:, 1, None]) * y[:, 2, None]"
    ),
    "F.instance_norm(w)": "nnx.standardize(w, axis=(2, 3), variance=w.var(axis=(2, 3), keepdims=True))",
    "F.group_norm(w, 2, v, v, 1e-3)": (
        "nnx.standardize(w.reshape(w.shape[0], 2, -1), variance=w.reshape(w.shape[0], 2, -1)"
        ".var(axis=-1, keepdims=True), epsilon=0.001).reshape(w.shape) * v[:, None, None] + v[:, None, None]"
    ),
    "F.scaled_dot_product_attention(y, y, y, is_causal=True, scale=2.0)": (
        "nnx.softmax(2.0 * (y @ y.mT), where=jnp.tri(y.shape[-2], y.shape[-2], dtype=bool)) @ y"
    ),
    "x.prod(1)": "x.prod(axis=1)",
    "torch.ones_like(i, dtype=torch.float32)": "jnp.ones_like(i, dtype=float)",
    "torch.full((2, 3), True)": "jnp.full((2, 3), True)",
    "x.squeeze()": "x.squeeze()",
    "x[:1, :1].squeeze((0, 1))": "jnp.squeeze(x[:1, :1], (0, 1))",
    "v.expand(2, -1)": "jnp.broadcast_to(v, (2, 4))",
    "x.transpose(0, 0)": "x",
    "v.repeat(1)": "v",
    "torch.stack([x, x], 1)": "jnp.stack([x, x], 1)",
    "x.detach()": "lax.stop_gradient(x)",
    'torch.div(i, 2, rounding_mode="trunc")': "lax.div(i, 2)",
    "torch.linalg.inv(m)": "jnp.linalg.inv(m)",
    "x.narrow(1, 0, 2)": "x[:, :2]",
    "x.narrow(1, -2, 2)": "x[:, -2:]",
    "x.narrow(1, -2, 1)": "x[:, -2:-2 + 1]",
    "F.adaptive_avg_pool2d(w, (4, 4))": "w",
    "x[None].squeeze(())": "x[None]",
    "torch.fft.rfft(x, dim=1)": "jnp.fft.rfft(x, axis=1)",
    "torch.fft.fft2(x)": "jnp.fft.fft2(x)",
    'torch.fft.irfftn(x, (4,), (1,), "ortho")': "jnp.fft.irfftn(x, s=(4,), axes=(1,), norm='ortho')",
    "torch.rnn_tanh_cell(m, m, m, m)": "jnp.tanh(m @ m.T + m @ m.T)",
    "torch.stft(y, 4, 4, 4, v, center=False, return_complex=True)": (
        "jnp.fft.rfft(y[..., jnp.arange(0, y.shape[-1] - 4 + 1, 4)[:, None] + jnp.arange(4)] * v).mT"
    ),
    "torch.istft(torch.view_as_complex(x.view(3, 4, 2)), 4, 1, 4, v, length=2)": (
        "signal.istft(lax.complex(x.reshape(3, 4, 2)[..., 0], x.reshape(3, 4, 2)[..., 1]) / v.sum(), "
        "window=v, nperseg=4, noverlap=3)[1][..., :2]"
    ),
    "torch.hann_window(4)": "jnp.hanning(4 + 1)[:-1]",
    "torch.ops.aten.copy(x, i)": "i.astype(x.dtype)",
    "torch.view_as_complex(m[:, :2]).abs()": "jnp.abs(lax.complex(m[:, :2][..., 0], m[:, :2][..., 1]))",
    "torch.ops.aten.index(x, [t, None])": "jnp.take(x, t, axis=0)",
    "x[t, t - 1]": "x.at[t, t - 1].get(mode='fill')",
    "x[torch.arange(2), x[:, :, 0].argmax(1)]": "x[jnp.arange(2), x[..., 0].argmax(axis=1)]",
    "x[:, y.argsort(0)]": "x[:, jnp.argsort(y, axis=0)]",
    "torch.ops.aten.pad_sequence([y, y], True)": "jnp.stack([y, y])",
    "y.expand(3, 4)": "y",
    "x.float()": "x",
    'x.masked_fill(b, float("nan"))': "jnp.where(b, jnp.nan, x)",
    "F.interpolate(w, scale_factor=(1, 2))": "jnp.repeat(w, 2, axis=3)",
}
"""Expression of torch -> its spelling."""
CALLED = (
    # bfloat16, which torch computes in float32 or promotes otherwise
    *("h + s", "F.scaled_dot_product_attention(h, h, h)", "F.linear(h, h[0])", "F.softmax(h, -1)"),
    *("F.layer_norm(h, (4,))", "torch.addmm(h[0, 0], h[0], m.bfloat16())"),
    *("torch._weight_norm(h[0], h[0, :, :1])", "F.conv1d(h, h[:, :, :1])", "F.silu(h)", "h ** s"),
    *("h.var(1)", "F.adaptive_avg_pool2d(w.bfloat16(), (1, 4))"),
    # integers without a sign, in which numbers wrap
    *("torch.arange(0, 2, dtype=torch.uint8)", "u.masked_fill(b, -1)", "v[u[0, 0]]", "u / -1"),
    "u.clamp(min=-1)",
    # tensors without axes
    *("s.sum()", "s.max(0)", "s.sort()", "s.mean()", "s.amax(0)", "s.gather(0, t[0] - 1)"),
    # settings and sizes that functions of JAX do not have
    *("x.round(decimals=2)", "F.softplus(x, 1, 3)", "x.index_put((b,), x[0, 0, :1])", "x.topk(2, 1)"),
    *("F.adaptive_avg_pool2d(w, 2)", "F.pad(x, (1, -1))", "F.interpolate(w, size=(7, 4))"),
    *('torch.div(x, y, rounding_mode="floor")', "x.gather(1, i[:, :, :1])", "x.norm(3)"),
    *("v.repeat_interleave(t)", 'torch.div(x, 2, rounding_mode="trunc")'),
    "F.avg_pool1d(x, 2, ceil_mode=True)",
    "torch.stft(y, 4, 4, 2, v[:2], center=False, return_complex=True)",
    *("torch.istft(torch.view_as_complex(x.reshape(3, 4, 2)), 4, 1, 4, v, length=9)", "F.prelu(x, v[:3])"),
    *("torch.hann_window(4, False)", "torch.view_as_complex(m[:, :2]).float()"),
    "torch.istft(torch.view_as_complex(x.view(3, 4, 2)), 4, 1, 4, v, center=False)",
    "F.max_pool1d(x, 2, dilation=2)",
)
"""Expressions that are calls of the operator itself, by the reason."""
