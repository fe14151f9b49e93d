"""A Runner: results equal to ``lstm`` for every shape, from a few executables or from none."""

import functools
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.layout import Format, Layout

from jaxlstm import LSTMCellConfig, LSTMConfig, kernels
from jaxlstm.inference import Runner, compile
from jaxlstm.inference.chunked import CHUNK, ChunkedForward
from jaxlstm.inference.compiled import SHORTEST, buckets
from testing.inference import compilations, normal, reference, weights

pytestmark = pytest.mark.usefixtures("optimized")

CONFIGS = {
    "one": LSTMConfig(5, 12),
    "stack": LSTMConfig(7, 16, num_layers=2, batch_first=True, dropout=0.5),
    "both": LSTMConfig(7, 12, num_layers=2, bidirectional=True, proj_size=5, bias=False),
    "cell": LSTMCellConfig(5, 12),
}


@functools.cache
def runner_of(name: str) -> Runner:
    return compile(weights(CONFIGS[name]), CONFIGS[name], max_length=40, max_batch=4)


@pytest.mark.parametrize("name", CONFIGS)
def test_results_equal_lstm(name: str) -> None:
    config, runner = CONFIGS[name], runner_of(name)
    params = weights(config)
    x = normal(3, 35, config.input_size) if config.batch_first else normal(35, 3, config.input_size)
    h_shape, c_shape = config.state_shapes(3)
    state = (normal(*h_shape, seed=1), normal(*c_shape, seed=2))
    for initial, lengths in itertools.product((None, state), (None, np.array([20, 35, 1]))):
        outputs, (h_n, c_n) = runner(x, initial, lengths)
        expected, final = reference(params, x, initial, config=config, lengths=lengths)
        np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-6)
        np.testing.assert_allclose(h_n, final[0], rtol=0, atol=1e-6)
        np.testing.assert_allclose(c_n, final[1], rtol=0, atol=2e-6)
    single = x[0] if config.batch_first else x[:, 0]
    outputs, (h_n, _) = runner(single, (state[0][:, 0], state[1][:, 0]))
    batch = single[None] if config.batch_first else single[:, None]
    expected, final = reference(params, batch, (state[0][:, :1], state[1][:, :1]), config=config)
    np.testing.assert_allclose(outputs, expected.reshape(outputs.shape), rtol=0, atol=1e-6)
    np.testing.assert_allclose(h_n, final[0][:, 0], rtol=0, atol=1e-6)


@pytest.mark.quick("stack-1-40")
@pytest.mark.parametrize(("name", "batch", "time"), [("stack", 1, 40), ("both", 3, 17)])
def test_bits_do_not_depend_on_the_bucket(name: str, batch: int, time: int) -> None:
    """Compare a large Runner with one whose largest executable has just this shape.

    A batch of one is a separate bucket, because XLA multiplies a single row by another routine on a CPU.
    """
    config = CONFIGS[name]
    params = weights(config)
    large = compile(params, config, max_length=256, max_batch=8, backend="scan")
    exact = compile(params, config, max_length=time, max_batch=batch, backend="scan")
    shape = (batch, time) if config.batch_first else (time, batch)
    x = normal(*shape, config.input_size)
    jax.tree.map(np.testing.assert_array_equal, large(x), exact(x))


@pytest.mark.parametrize("backend", ["scan", "auto"])
def test_full_batches_in_any_layout(backend: str) -> None:
    config = CONFIGS["one"]
    runner = compile(weights(config), config, max_length=40, max_batch=4, backend=backend)
    x = normal(40, 4, config.input_size)
    expected = runner(x, None, np.full(4, 40))
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    transposed = jax.device_put(x, Format(Layout((2, 1, 0)), sharding))
    unaligned = np.empty(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    unaligned[...] = x
    for full in (x, jnp.asarray(x), transposed, np.asfortranarray(x), x[::-1].copy()[::-1], unaligned):
        jax.tree.map(np.testing.assert_array_equal, runner(full), expected)


def test_computed_steps() -> None:
    """Sorted by length, 1,000 sequences of 1 to 2,000 steps waste less than 10 %."""
    drawn = np.exp(np.random.default_rng(0).uniform(0, np.log(2000), 1000)).astype(int)
    lengths = np.sort(drawn)[::-1]
    batches = [lengths[k : k + 32] for k in range(0, 992, 32)]
    assert lengths[:992].sum() / sum(map(ChunkedForward.computed_steps, batches)) > 0.9
    assert ChunkedForward.computed_steps(np.array([100, 20, 1, 1])) == 4 * 16 + 2 * 96
    assert ChunkedForward.computed_steps(np.array([1, 1, 20, 100])) == 4 * 112


@pytest.mark.parametrize(("name", "backend"), [("stack", "scan"), ("both", "auto")])
def test_bits_of_the_last_rows_of_a_shrinking_batch(name: str, backend: str) -> None:
    """Compare a batch that shrinks from 8 rows to 2 with batches of 2."""
    config = CONFIGS[name]
    runner = compile(weights(config), config, max_length=300, max_batch=8, backend=backend)
    lengths = np.array([300, 290, 201, 200, 33, 16, 7, 1])
    x = normal(8, 300, 7) if config.batch_first else normal(300, 8, 7)
    rows = (lambda a, k: a[k]) if config.batch_first else (lambda a, k: a[:, k])
    padding = np.arange(300)[:, None] >= lengths
    x[padding.T if config.batch_first else padding] = np.nan
    outputs, state = runner(x, None, lengths)
    assert np.isfinite(outputs).all()
    if backend == "scan" or not kernels.info()["native"]:
        assert runner.stats().computed_steps == 8 * 48 + 4 * (208 - 48) + 2 * (304 - 208)
    for pair in (slice(0, 2), slice(2, 4), slice(6, 8)):
        expected, final = runner(rows(x, pair), None, lengths[pair])
        np.testing.assert_array_equal(rows(outputs, pair), expected)
        np.testing.assert_array_equal(state.h[:, pair], final.h)
        np.testing.assert_array_equal(state.c[:, pair], final.c)


@pytest.mark.parametrize("backend", ["scan", "auto"])
def test_many_lengths_compile_a_few_executables(backend: str) -> None:
    """The native kernel compiles none."""
    config, native = CONFIGS["one"], backend == "auto" and kernels.info()["native"]
    runner = compile(weights(config), config, max_length=100, max_batch=1, backend=backend)
    lengths = np.random.default_rng(0).integers(1, 101, 200)
    x = normal(100, config.input_size)
    before = compilations()
    for time in lengths:
        runner(x[:time])
    stats = runner.stats()
    assert compilations() - before == stats.compilations == (0 if native else len(buckets(100, SHORTEST)))
    assert stats.calls == 200
    assert stats.valid_steps == lengths.sum()
    chunk = 1 if native else CHUNK
    assert stats.computed_steps == (-(-lengths // chunk) * chunk).sum()


def test_warmup() -> None:
    config = CONFIGS["one"]
    runner = compile(weights(config), config, max_length=32, max_batch=3, backend="scan")
    runner.warmup()
    assert runner.stats().compilations == 2 * 3
    before = compilations()
    for batch, time in ((1, 1), (2, 17), (3, 32)):
        runner(normal(time, batch, 5), None, np.full(batch, time))
    runner.map([normal(n, 5) for n in (3, 20, 1, 32)], batch_size=3)
    assert compilations() == before


def test_map() -> None:
    """The default batch size is at most ``max_batch``, and an iterator may reuse its buffer."""
    config, runner, buffer = CONFIGS["one"], runner_of("one"), np.empty((40, 5), np.float32)
    sequences = [normal(n, 5, seed=n) for n in (3, 20, 1, 7, 12, 40)]

    def one_after_another() -> Iterator[np.ndarray]:
        for sequence in sequences:
            buffer[: len(sequence)] = sequence
            yield buffer[: len(sequence)]

    for x, (outputs, state) in zip(sequences, runner.map(one_after_another()), strict=True):
        expected, final = reference(weights(config), x[:, None], config=config)
        np.testing.assert_allclose(outputs, expected[:, 0], rtol=0, atol=1e-6)
        np.testing.assert_allclose(state.h, final[0][:, 0], rtol=0, atol=1e-6)


def test_float64_params_without_64_bit_mode() -> None:
    """A float64 checkpoint can be cast to float32."""
    config = CONFIGS["one"]
    params = {name: np.asarray(leaf, np.float64) for name, leaf in weights(config).items()}
    runner = compile(params, config, max_length=40, max_batch=4, dtype="float32")
    x = normal(9, 2, 5)
    np.testing.assert_array_equal(runner(x)[0], runner_of("one")(x)[0])


def test_64_bit_mode_without_the_native_kernel() -> None:
    """In 64-bit mode, Python's integers are int64 beside the int32 of the loop over chunks."""
    config, x = CONFIGS["one"], normal(20, 2, 5)
    with jax.enable_x64(True):
        for dtype in (np.float32, np.float64):
            runner = compile(weights(config), config, max_length=32, max_batch=2, dtype=dtype, backend="scan")
            expected = reference(weights(config, dtype), x.astype(dtype), config=config)[0]
            np.testing.assert_allclose(runner(x.astype(dtype))[0], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("backend", ["scan", "auto"])
def test_threads_share_a_runner(backend: str) -> None:
    config = CONFIGS["stack"]
    runner = compile(weights(config), config, max_length=64, max_batch=2, backend=backend)
    inputs = [normal(1 + k % 2, 1 + k, 7, seed=k) for k in range(32)]
    with ThreadPoolExecutor(32) as pool:
        results = list(pool.map(lambda x: [runner(x)[0] for _ in range(10)], inputs))
    for x, repeated in zip(inputs, results, strict=True):
        expected = runner(x)[0]
        for outputs in repeated:
            np.testing.assert_array_equal(outputs, expected)
    if backend == "scan":
        assert runner.stats().compilations == 2 * 2  # 16 and 32 steps, of one sequence and of two
    assert runner.stats().calls == 32 * 11


def test_errors_of_a_call() -> None:
    runner = compile(weights(CONFIGS["one"]), CONFIGS["one"], max_length=16, max_batch=2)
    x, donated = normal(4, 2, 5), jnp.ones((1, 2, 12))
    jax.jit(lambda h: h + 1, donate_argnums=0)(donated)
    for call, kind, message in (
        (lambda: runner(x.astype(np.float64)), TypeError, "inputs must be float32"),
        (lambda: runner(x.astype(int)), TypeError, "got int64. Cast it with .astype$"),
        (lambda: runner(x.astype(object)), TypeError, "an array of objects. Make one array with numpy.stack"),
        (lambda: runner(x.tolist()), TypeError, "inputs must be a NumPy or JAX array"),
        (lambda: runner(np.ma.masked_less(x, 0)), TypeError, "inputs must be an array without a mask"),
        (lambda: runner(normal(4, 2, 6)), ValueError, r"\(time, batch, 5\).*got \(4, 2, 6\)"),
        (lambda: runner(x[:0]), ValueError, "at least one sequence and one step"),
        (lambda: runner(normal(17, 2, 5)), ValueError, "up to 16 steps of up to 2"),
        (lambda: runner(normal(4, 3, 5)), ValueError, "got 4 of 3"),
        (lambda: runner(x, None, np.array([1, 5])), ValueError, "between 1 and .* 4; got 5"),
        (lambda: runner(x, None, np.array([0, 4])), ValueError, "got 0 at index 0"),
        (lambda: runner(x, None, np.array([1.0, 4])), TypeError, "integers"),
        (lambda: runner(x, x), TypeError, r"a pair \(h_0, c_0\)"),
        (lambda: runner(x, (donated, donated)), ValueError, "h_0 was donated"),
        (lambda: runner(x, (x, x)), ValueError, r"h_0 must have shape \(1, 2, 12\)"),
        (lambda: runner.map([x[0]], 3), ValueError, "batch_size must be at most .* 2; got 3"),
        (lambda: runner.map([x], 2), ValueError, r"sequence 0 must have shape \(time, 5\)"),
        (lambda: runner.map([x[0]], 2, order="shuffled"), ValueError, "order must be one of"),
        (lambda: jax.jit(runner)(x), TypeError, r"inputs is traced.*float32\[4,2,5\].* use jaxlstm.lstm"),
        (lambda: jax.vmap(runner.stream())(x[None]), TypeError, "A Runner and its streams are compiled"),
        (lambda: jax.jit(lambda n: runner(x, None, n))(np.array([1, 4])), TypeError, "seq_lengths is traced"),
    ):
        with pytest.raises(kind, match=message):
            call()


def test_errors_of_compile() -> None:
    config = CONFIGS["one"]
    params: dict[str, Any] = weights(config)
    lists = {name: leaf.tolist() for name, leaf in params.items()}
    for options, kind, message in (
        ({"max_length": 0}, ValueError, "max_length must be greater than zero, got 0"),
        ({"device": "cpu"}, TypeError, "a single device .*; got 'cpu', a str"),
        ({"device": jax.devices()}, TypeError, "a list. For several devices use .*inference.shard"),
        ({"precision": "exact"}, ValueError, "precision must be 'highest'"),
        ({"params": lists}, TypeError, "weight_ih_l0 must be a JAX or NumPy array, got list"),
    ):
        arguments: dict[str, Any] = {"params": params, "config": config, "max_length": 1, "max_batch": 1}
        with pytest.raises(kind, match=message):
            compile(**{**arguments, **options})
