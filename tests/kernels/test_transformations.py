"""The native kernel under JAX's transformations: vmap, higher derivatives, remat, scan and export."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm import LSTMConfig, init_params, lstm
from jaxlstm.functional import run_layers
from testing.problems import Problem, draw, needs_native, worst_error

pytestmark = needs_native
CONFIG = LSTMConfig(5, 12)


def run(params: Any, x: Any, backend: str = "native") -> jax.Array:
    return lstm(params, x, config=CONFIG, backend=backend)[0]


def arguments(batch: int = 4) -> tuple[dict, jax.Array]:
    params = init_params(jax.random.key(0), CONFIG)
    return params, jax.random.normal(jax.random.key(1), (6, batch, 5))


def by_backend(function: Callable[[str], Any]) -> tuple[Any, Any]:
    """Return ``function(backend)``, jitted, for the native kernel and for the plain scan."""
    return jax.jit(lambda: function("native"))(), jax.jit(lambda: function("scan"))()


def test_vmap_over_inputs_is_one_call_with_a_larger_batch() -> None:
    params, x = arguments()
    many = jnp.stack([x[::-1], 2 * x], axis=2)  # ten rows; float32 on AMX rounds differently from twelve on
    mapped = jax.vmap(run, in_axes=(None, 2), out_axes=2)
    np.testing.assert_array_equal(mapped(params, many)[:, :, 0], run(params, x[::-1]))
    assert str(jax.make_jaxpr(mapped)(params, many)).count("lstm_native_forward") == 1
    loss = lambda x, backend: (run(params, x, backend) ** 2).sum()  # noqa: E731
    gradients = jax.jit(jax.vmap(jax.grad(lambda x: loss(x, "native")), in_axes=2))(many)
    expected = jax.jit(jax.grad(lambda x: loss(x, "scan")))(2 * x)
    assert worst_error(gradients[1], expected) < 1e-6


def test_vmap_over_weights_is_an_ensemble() -> None:
    _, x = arguments()
    ensemble = jax.vmap(lambda key: init_params(key, CONFIG))(jax.random.split(jax.random.key(2), 3))
    outputs = jax.vmap(run, in_axes=(0, None))(ensemble, x)
    one = jax.tree.map(lambda leaf: leaf[1], ensemble)
    np.testing.assert_array_equal(outputs[1], run(one, x))
    loss = lambda backend: lambda p: (run(p, x, backend) ** 2).sum()  # noqa: E731
    native, scan = by_backend(lambda backend: jax.vmap(jax.grad(loss(backend)))(ensemble))
    assert worst_error(native, scan) < 1e-6


def test_vmap_over_an_empty_batch() -> None:
    params, x = arguments(batch=0)
    outputs, pull = jax.vjp(jax.vmap(run, in_axes=(None, 1), out_axes=1), params, x)
    assert outputs.shape == (6, 0, 12)
    by_params, by_inputs = pull(outputs)
    assert by_inputs.shape == x.shape
    assert not any(leaf.any() for leaf in by_params.values())


def test_per_example_gradients() -> None:
    params, x = arguments()
    loss = lambda backend: lambda p, row: (run(p, row[:, None], backend) ** 2).sum()  # noqa: E731
    native, scan = by_backend(lambda backend: jax.vmap(jax.grad(loss(backend)), in_axes=(None, 1))(params, x))
    assert worst_error(native, scan) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("gru", [False, True])
def test_forward_mode_and_second_derivatives(gru: bool) -> None:
    with jax.enable_x64(True):
        proj_size = 0 if gru else 2
        problem = Problem(4, 3, 2, 4, proj_size=proj_size, ragged=True, bidirectional=True, gru=gru)
        config, params, x, state, lengths = draw(problem, jnp.float64)
        direction = jax.tree.map(lambda leaf: jnp.cos(7 * leaf), params)

        def derivatives(backend: str) -> Any:
            def f(p: Any) -> jax.Array:
                outputs, last = run_layers(p, x, state, config=config, seq_lengths=lengths, backend=backend)
                return (outputs**2).sum() + (jax.tree.leaves(last)[-1] ** 3).sum()

            gradient_dot_params = lambda p: sum(  # noqa: E731
                map(jnp.vdot, *map(jax.tree.leaves, (jax.grad(f)(p), p)))
            )
            return (
                jax.jvp(f, (params,), (direction,)),
                jax.jvp(jax.grad(f), (params,), (direction,)),
                jax.grad(lambda p: jax.jvp(f, (p,), (direction,))[1])(params),
                jax.grad(gradient_dot_params)(params),
            )

        native, scan = by_backend(derivatives)
        for actual, expected in zip(native, scan, strict=True):
            assert worst_error(actual, expected) < 1e-13


def test_inside_checkpoint_and_scan() -> None:
    params, x = arguments()

    def loss(x: jax.Array, backend: str) -> jax.Array:
        def step(carry: jax.Array, _: None) -> tuple[jax.Array, None]:
            return jax.checkpoint(run, static_argnums=2)(params, carry, backend)[..., :5], None

        return (jax.lax.scan(step, x, None, length=2)[0] ** 2).sum()

    native, scan = by_backend(lambda backend: jax.grad(loss)(x, backend))
    assert worst_error(native, scan) < 1e-6


def test_export_has_no_custom_call() -> None:
    params, x = arguments()
    exported = jax.export.export(jax.jit(lambda p, x: run(p, x, "auto")), platforms=("cpu", "cuda", "tpu"))(
        params, x
    )
    assert "jaxlstm_forward" not in exported.mlir_module()
    assert worst_error(exported.call(params, x), run(params, x)) < 1e-6


def test_auto_on_another_platform_is_the_plain_scan() -> None:
    params, x = arguments()
    traced = jax.jit(run, static_argnums=2).trace(params, x, "auto")
    assert "jaxlstm_forward" not in traced.lower(lowering_platforms=("tpu",)).as_text()
    assert "jaxlstm_forward" in traced.lower(lowering_platforms=("cpu",)).as_text()


def test_native_on_another_platform_is_an_error() -> None:
    params, x = arguments()
    loss = lambda params, x: run(params, x).sum()  # noqa: E731
    for function in (run, jax.grad(loss)):
        traced = jax.jit(function).trace(params, x)
        for platform in ("cuda", "tpu"):
            with pytest.raises(NotImplementedError, match=r"backend='native' has kernels for cpu, .*'auto'"):
                traced.lower(lowering_platforms=(platform,))
