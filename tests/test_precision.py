"""Every matrix product uses the requested precision, on every way to run an LSTM, forward and backward."""

from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import numpy as np
import pytest
from flax import nnx

import jaxlstm
from jaxlstm import LSTMConfig, functional, kernels, training
from jaxlstm.inference import chunked
from jaxlstm.layer.precision import resolve
from testing.products import levels_for, products_of

T, B, IN, H = 4, 2, 3, 5
PLAIN = LSTMConfig(IN, H)
RICH = LSTMConfig(IN, H, num_layers=2, bidirectional=True, proj_size=2)
ONE_WAY = LSTMConfig(IN, H, num_layers=2, proj_size=2)
X = np.ones((T, B, IN), np.float32)
LENGTHS = np.array([4, 2], np.int32)
Trace = tuple[Callable[..., Any], tuple[Any, ...]]
"""A function and the arguments to trace it with."""


def params_of(config: LSTMConfig) -> Any:
    shapes = jaxlstm.param_shapes(config)
    return {name: np.full(shape, 0.1, np.float32) for name, shape in shapes.items()}


def state_of(config: LSTMConfig) -> Any:
    return tuple(np.zeros(shape, np.float32) for shape in config.state_shapes(B))


def layer(config: LSTMConfig, lengths: Any = None, **options: Any) -> Trace:
    def run(params: Any, x: Any, state: Any) -> Any:
        return functional.lstm(params, x, state, config=config, seq_lengths=lengths, **options)

    return run, (params_of(config), X, state_of(config))


def gradient(trace: Trace) -> Trace:
    """Return the gradient of the sum of all results with respect to all arguments."""
    run, arguments = trace
    total = lambda *args: sum(leaf.sum() for leaf in jax.tree.leaves(run(*args)))  # noqa: E731
    return jax.grad(total, tuple(range(len(arguments)))), arguments


def forward_mode(trace: Trace) -> Trace:
    run, arguments = trace
    return lambda *args: jax.jvp(run, args, args), arguments


def nnx_layer(**options: Any) -> Trace:
    model = jaxlstm.nnx.LSTM(IN, H, bidirectional=True, rngs=nnx.Rngs(0), **options)
    graph, variables = nnx.split(model)
    return lambda variables, x: nnx.merge(graph, variables)(x, seq_lengths=LENGTHS), (variables, X)


def nnx_cell(**options: Any) -> Trace:
    graph, variables = nnx.split(jaxlstm.nnx.LSTMCell(IN, H, rngs=nnx.Rngs(0), **options))
    return lambda variables, x: nnx.merge(graph, variables)(x), (variables, X[0])


def linen_layer(**options: Any) -> Trace:
    model = jaxlstm.linen.LSTM(IN, H, bidirectional=True, **options)
    params = params_of(LSTMConfig(IN, H, bidirectional=True))
    return lambda params, x: model.apply({"params": params}, x), (params, X)


def linen_cell(**options: Any) -> Trace:
    model = jaxlstm.linen.LSTMCell(IN, H, **options)
    params = params_of(jaxlstm.LSTMCellConfig(IN, H))
    return lambda params, x: model.apply({"params": params}, x), (params, X[0])


def one_step(**options: Any) -> Trace:
    params = params_of(jaxlstm.LSTMCellConfig(IN, H))
    return lambda params, x: functional.lstm_cell(params, x, **options), (params, X[0])


def runner_program(name: str, config: LSTMConfig, *more: Any, **options: Any) -> Trace:
    """Return the function that a Runner compiles where the native kernel is unavailable."""
    with mock.patch("jaxlstm.inference.runner.is_available", return_value=False):
        runner = jaxlstm.inference.compile(params_of(config), config, max_length=16, max_batch=2, **options)
    engine: Any = runner._engine
    x = np.ones((chunked.CHUNK, B, IN), np.float32)
    x = x[0] if name == "step" else x
    run = getattr(engine._forward, name)
    return run, (engine.weights, x, *state_of(config), *more)


def sharded(config: LSTMConfig, **options: Any) -> Trace:
    mesh = jax.make_mesh((1, 1), ("data", "hidden"), devices=jax.devices()[:1])
    model = jaxlstm.inference.shard(config, mesh, **options)
    return model, (model.place(params_of(config)), X, state_of(config))


def in_blocks(**options: Any) -> Trace:
    def run(params: Any, x: Any) -> Any:
        return training.lstm_in_blocks(params, x, config=ONE_WAY, block=3, **options)

    return run, (params_of(ONE_WAY), X)


def truncated(**options: Any) -> Trace:
    def run(params: Any, x: Any, state: Any) -> Any:
        loss = lambda outputs, targets: outputs.sum()  # noqa: E731
        return training.truncated_step(loss, params, state, x, None, config=ONE_WAY, **options)

    return run, (params_of(ONE_WAY), X, state_of(ONE_WAY))


def packed(**options: Any) -> Trace:
    pack = jaxlstm.pack_padded_sequence(X, LENGTHS, enforce_sorted=False)
    return lambda params, p: functional.lstm(params, p, config=RICH, **options), (params_of(RICH), pack)


ON_ANY_BACKEND: dict[str, Callable[..., Trace]] = {
    "forward": lambda **o: layer(PLAIN, **o),
    "ragged": lambda **o: layer(RICH, LENGTHS, **o),
    "gradient": lambda **o: gradient(layer(RICH, **o)),
    "ragged, gradient": lambda **o: gradient(layer(RICH, LENGTHS, **o)),
    "jvp": lambda **o: forward_mode(layer(RICH, LENGTHS, **o)),
    "jvp of the gradient": lambda **o: forward_mode(gradient(layer(PLAIN, LENGTHS, **o))),
    "packed": packed,
    "nnx": nnx_layer,
    "linen": linen_layer,
    "runner": lambda **o: runner_program("batch", RICH, LENGTHS, **o),
    "stream": lambda **o: runner_program("step", ONE_WAY, **o),
    "long": in_blocks,
    "long, gradient": lambda **o: gradient(in_blocks(**o)),
    "truncated": truncated,
}
WITHOUT_BACKEND: dict[str, Callable[..., Trace]] = {
    "cell": one_step,
    "nnx cell": nnx_cell,
    "linen cell": linen_cell,
    "sharded": lambda **o: sharded(RICH, **o),
    "sharded, gradient": lambda **o: gradient(sharded(RICH, **o)),
}


LEVELS = {
    "highest": "HIGHEST",
    "float32": "HIGHEST",
    "high": "HIGH",
    "tensorfloat32": "HIGH",
    "default": "DEFAULT",
    "bfloat16": "DEFAULT",
}


def levels(trace: Trace) -> list[str]:
    function, arguments = trace
    return [product.level for product in products_of(function, *arguments)]


# "tensorfloat32" is neither our default nor JAX's, so a product that ignores the setting is found.
@pytest.mark.parametrize("backend", ["scan", "auto"])
@pytest.mark.parametrize("path", ON_ANY_BACKEND)
def test_products_of_a_path(path: str, backend: str) -> None:
    assert set(levels(ON_ANY_BACKEND[path](precision="tensorfloat32", backend=backend))) == {"HIGH"}


@pytest.mark.parametrize("path", WITHOUT_BACKEND)
def test_products_of_a_path_without_backend(path: str) -> None:
    found = levels(WITHOUT_BACKEND[path](precision="tensorfloat32"))
    assert set(found) == {"HIGH"}
    assert len(found) >= 2


@pytest.mark.parametrize("path", [*ON_ANY_BACKEND, *WITHOUT_BACKEND])
def test_default_is_highest(path: str) -> None:
    make = (ON_ANY_BACKEND | WITHOUT_BACKEND)[path]
    assert set(levels(make())) == {"HIGHEST"}


@pytest.mark.parametrize("setting", [*LEVELS, jax.lax.Precision.HIGH, None])
def test_setting_names(setting: Any) -> None:
    expected = LEVELS.get(setting, "HIGH" if setting else "None")
    for backend in ("scan", "auto"):
        assert set(levels(gradient(layer(PLAIN, precision=setting, backend=backend)))) == {expected}


@pytest.mark.parametrize("backend", ["scan", "auto"])
def test_none_is_the_jax_default_at_the_call(backend: str) -> None:
    # The backward pass is traced after the default has changed back.
    run, arguments = layer(RICH, LENGTHS, precision=None, backend=backend)
    with jax.default_matmul_precision("highest"):
        results, pull = jax.vjp(run, *arguments)
    assert {product.level for product in products_of(pull, results)} == {"HIGHEST"}
    with jax.default_matmul_precision("BF16_BF16_F32"):  # an algorithm, not a level
        assert resolve(None) is None
        found = products_of(*layer(PLAIN, precision=None, backend="scan")[:1], *layer(PLAIN)[1])
    assert {product.level for product in found} == {"BF16_BF16_F32"}


@pytest.mark.skipif(not kernels.info()["native"], reason="the native kernel was not built")
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_products_of_auto_on_other_platforms(platform: str) -> None:
    function, arguments = gradient(layer(RICH, LENGTHS, precision="tensorfloat32", backend="auto"))
    found = levels_for(platform, function, *arguments)
    assert set(found) == {"HIGH"}
    assert len(found) >= 2 * 3 * 3  # W_ih, W_hh and W_hr of two layers, once forward and twice backward
