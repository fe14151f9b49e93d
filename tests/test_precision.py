"""Every matrix product uses the requested precision, on every path, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm import kernels
from jaxlstm.layer.precision import level_of, linear, resolve
from testing.paths import LENGTHS, ON_ANY_BACKEND, PLAIN, RICH, WITHOUT_BACKEND, Trace, gradient, layer
from testing.products import levels_for, products_of

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


@pytest.mark.parametrize(
    ("dtype", "gates"),
    [
        (jnp.float16, jnp.float32),
        (jnp.bfloat16, jnp.float32),
        (jnp.float32, jnp.float32),
        (jnp.float64, jnp.float64),
    ],
)
def test_linear_returns_the_gate_dtype(dtype: Any, gates: Any) -> None:
    # Small integers are exact in every dtype.
    rng = np.random.default_rng(0)
    x, weight, bias = (rng.integers(-4, 5, shape) for shape in ((2, 3), (4, 3), 4))
    with jax.enable_x64(True):
        arrays = [jnp.asarray(a, dtype) for a in (x, weight, bias)]
        actual = linear(*arrays, precision="highest")
    assert actual.dtype == gates
    np.testing.assert_array_equal(actual, x @ weight.T + bias)


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


@pytest.mark.parametrize(
    ("default", "level"),
    [
        (None, "DEFAULT"),
        ("tensorfloat32", "HIGH"),
        ("BF16_BF16_F32", "DEFAULT"),
        ("F16_F16_F32", "HIGH"),
        ("TF32_TF32_F32", "HIGH"),
        ("BF16_BF16_F32_X3", "HIGHEST"),  # more accurate than TF32, a GPU's HIGH
        ("F32_F32_F32", "HIGHEST"),
    ],
)
def test_kernel_level_is_at_least_the_jax_default(default: str | None, level: str) -> None:
    from jaxlstm.kernels.gpu import cudnn

    with jax.default_matmul_precision(default):
        assert level_of(None).name == level
        assert (cudnn.cudnn_precision(None).name == "HIGHEST") == (level == "HIGHEST")
        for setting, expected in LEVELS.items():  # explicit settings ignore the default
            assert level_of(setting).name == expected


@pytest.mark.skipif(not kernels.info()["native"], reason="the native kernel was not built")
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_products_of_auto_on_other_platforms(platform: str) -> None:
    function, arguments = gradient(layer(RICH, LENGTHS, precision="tensorfloat32", backend="auto"))
    found = levels_for(platform, function, *arguments)
    assert set(found) == {"HIGH"}
    assert len(found) >= 2 * 3 * 3  # W_ih, W_hh and W_hr of two layers, once forward and twice backward


@pytest.mark.parametrize("place", ["top", "loop", "branch", "remat", "custom", "shard", "backwards"])
def test_products_of_finds_every_product(place: str) -> None:
    def planted(x: jax.Array) -> jax.Array:
        return jnp.matmul(x, x)

    @jax.custom_jvp
    def custom(x: jax.Array) -> jax.Array:
        return planted(x)

    @jax.custom_vjp
    def backwards(x: jax.Array) -> jax.Array:
        return x

    custom.defjvps(lambda dx, out, x: dx)
    backwards.defvjp(lambda x: (x, x), lambda x, ct: (planted(ct),))
    mesh = jax.make_mesh((1,), ("a",), devices=jax.devices()[:1])
    spec = jax.sharding.PartitionSpec()
    where: dict[str, Callable[[jax.Array], Any]] = {
        "top": planted,
        "loop": lambda x: jax.lax.scan(lambda h, _: (planted(h), None), x, None, length=2)[0],
        "branch": lambda x: jax.lax.cond(x[0, 0] > 0, planted, lambda x: x, x),
        "remat": jax.checkpoint(planted),
        "custom": custom,
        "shard": jax.shard_map(planted, mesh=mesh, in_specs=spec, out_specs=spec),
        "backwards": jax.grad(lambda x: backwards(x).sum()),
    }

    def beside_a_layer(params: Any, x: Any, state: Any, square: Any) -> Any:
        return layer(PLAIN)[0](params, x, state), where[place](square)

    found = products_of(beside_a_layer, *layer(PLAIN)[1], np.ones((2, 2), np.float32))
    assert [product for product in found if product.level != "HIGHEST"] == [("dot_general", "None")]
    text = levels_for("tpu", beside_a_layer, *layer(PLAIN)[1], np.ones((2, 2), np.float32))
    assert "DEFAULT" in text
