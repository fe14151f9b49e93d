"""The precision asked for is that of every product: of every path, forwards and backwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm import kernels
from jaxlstm.precision import level_of, linear, resolve
from tests.support.paths import (
    LENGTHS,
    ON_ANY_BACKEND,
    PLAIN,
    RICH,
    WITHOUT_BACKEND,
    Trace,
    gradient,
    layer,
)
from tests.support.products import levels_for, products_of

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


@pytest.mark.parametrize("setting", ["highest", "tensorfloat32", "bfloat16"])
@pytest.mark.parametrize("backend", ["scan", "auto"])
@pytest.mark.parametrize("path", ON_ANY_BACKEND)
def test_every_product_of_a_path(path: str, backend: str, setting: str) -> None:
    found = levels(ON_ANY_BACKEND[path](precision=setting, backend=backend))
    assert found == [LEVELS[setting]] * len(found)
    assert found


@pytest.mark.parametrize("setting", ["highest", "tensorfloat32", "bfloat16"])
@pytest.mark.parametrize("path", WITHOUT_BACKEND)
def test_every_product_of_a_path_without_a_choice_of_backend(path: str, setting: str) -> None:
    found = levels(WITHOUT_BACKEND[path](precision=setting))
    assert found == [LEVELS[setting]] * len(found)
    assert len(found) >= 2


@pytest.mark.parametrize("path", [*ON_ANY_BACKEND, *WITHOUT_BACKEND])
def test_the_default_is_highest(path: str) -> None:
    make = (ON_ANY_BACKEND | WITHOUT_BACKEND)[path]
    assert set(levels(make())) == {"HIGHEST"}


@pytest.mark.parametrize("setting", [*LEVELS, jax.lax.Precision.HIGH, None])
def test_every_name(setting: Any) -> None:
    wanted = LEVELS.get(setting, "HIGH" if setting else "None")
    for backend in ("scan", "auto"):
        assert set(levels(gradient(layer(PLAIN, precision=setting, backend=backend)))) == {wanted}


@pytest.mark.parametrize(
    ("dtype", "gates"),
    [
        (jnp.float16, jnp.float32),
        (jnp.bfloat16, jnp.float32),
        (jnp.float32, jnp.float32),
        (jnp.float64, jnp.float64),
    ],
)
def test_a_product_and_a_bias_in_the_dtype_of_the_gates(dtype: Any, gates: Any) -> None:
    """Of whole numbers, which every dtype holds exactly."""
    rng = np.random.default_rng(0)
    x, weight, bias = (rng.integers(-4, 5, shape) for shape in ((2, 3), (4, 3), 4))
    with jax.enable_x64(True):
        given = [jnp.asarray(a, dtype) for a in (x, weight, bias)]
        found = linear(*given, precision="highest")
    assert found.dtype == gates
    np.testing.assert_array_equal(found, x @ weight.T + bias)


@pytest.mark.parametrize("backend", ["scan", "auto"])
def test_none_is_what_jax_was_set_to_when_the_layer_was_called(backend: str) -> None:
    """The backward pass too, which may be traced and compiled when that is over."""
    run, arguments = layer(RICH, LENGTHS, precision=None, backend=backend)
    with jax.default_matmul_precision("highest"):
        results, pull = jax.vjp(run, *arguments)
    assert {product.level for product in products_of(pull, results)} == {"HIGHEST"}
    with jax.default_matmul_precision("BF16_BF16_F32"):  # no level: JAX's own, product by product
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
        ("BF16_BF16_F32_X3", "HIGHEST"),  # a GPU's HIGH is TF32, of fewer bits
        ("F32_F32_F32", "HIGHEST"),
    ],
)
def test_a_kernel_is_no_coarser_than_the_default_of_jax(default: str | None, level: str) -> None:
    from jaxlstm.kernels.gpu import cudnn

    with jax.default_matmul_precision(default):
        assert level_of(None).name == level
        assert (cudnn.cudnn_precision(None).name == "HIGHEST") == (level == "HIGHEST")
        for setting, wanted in LEVELS.items():  # asked for, they are what they are
            assert level_of(setting).name == wanted


@pytest.mark.skipif(not kernels.info()["native"], reason="the native kernel was not built")
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("setting", ["highest", "tensorfloat32", "bfloat16"])
def test_what_stands_in_for_the_native_kernel_elsewhere(setting: str, platform: str) -> None:
    """The program for another platform has no kernel of the CPU's in it, and its products are as asked."""
    function, arguments = gradient(layer(RICH, LENGTHS, precision=setting, backend="auto"))
    found = levels_for(platform, function, *arguments)
    assert found == [LEVELS[setting]] * len(found)
    assert len(found) >= 2 * 3 * 3  # of two layers W_ih, W_hh, W_hr; forwards and twice back


@pytest.mark.parametrize(
    "place", ["top", "loop", "branch", "remat", "custom", "shard", "backwards"]
)
def test_a_product_without_it_is_seen_wherever_it_is(place: str) -> None:
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
