"""A Runner: the numbers of ``lstm``, from a few programs, whatever the shape."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest

from jaxlstm import LSTMCellConfig, LSTMConfig, kernels, lstm
from jaxlstm.inference import compile
from jaxlstm.inference.buckets import batch_buckets, length_buckets
from jaxlstm.inference.chunked import CHUNK, ChunkedForward
from tests.support.inference import compilations, normal, reference, weights

CONFIGS = {
    "one": LSTMConfig(5, 12),
    "stack": LSTMConfig(7, 16, num_layers=2, batch_first=True, dropout=0.5),
    "both": LSTMConfig(7, 12, num_layers=2, bidirectional=True, proj_size=5, bias=False),
    "cell": LSTMCellConfig(5, 12),
}


@pytest.mark.parametrize("max_length", [1, 2, 15, 16, 17, 100, 2000, 4096])
def test_few_length_buckets_and_none_wasteful(max_length: int) -> None:
    found = length_buckets(max_length)
    assert len(found) <= np.ceil(np.log2(max_length)) + 1
    assert all(b <= 2 * a for a, b in itertools.pairwise(found))
    assert found[-1] >= max_length > found[-1] - 16
    assert batch_buckets(max_length)[-1] == max_length


@pytest.mark.parametrize("name", CONFIGS)
def test_the_numbers_are_those_of_lstm(name: str) -> None:
    config = CONFIGS[name]
    params = weights(config)
    runner = compile(params, config, max_length=40, max_batch=4)
    x = normal(3, 35, config.input_size) if config.batch_first else normal(35, 3, config.input_size)
    h_shape, c_shape = config.state_shapes(3)
    state = (normal(*h_shape, seed=1), normal(*c_shape, seed=2))
    lengths = np.array([20, 35, 1])
    for given in (None, state):
        for n in (None, lengths):
            outputs, (h_n, c_n) = runner(x, given, n)
            wanted, final = reference(params, x, given, config=config, lengths=n)
            np.testing.assert_allclose(outputs, wanted, rtol=0, atol=1e-6)
            np.testing.assert_allclose(h_n, final[0], rtol=0, atol=1e-6)
            np.testing.assert_allclose(c_n, final[1], rtol=0, atol=2e-6)
    alone = x[0] if config.batch_first else x[:, 0]
    outputs, (h_n, _) = runner(alone, (state[0][:, 0], state[1][:, 0]))
    batch = alone[None] if config.batch_first else alone[:, None]
    wanted, final = reference(params, batch, (state[0][:, :1], state[1][:, :1]), config=config)
    np.testing.assert_allclose(outputs, wanted.reshape(outputs.shape), rtol=0, atol=1e-6)
    np.testing.assert_allclose(h_n, final[0][:, 0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["stack", "both"])
def test_a_bucket_changes_no_bit(name: str) -> None:
    """Each shape in a Runner of its own, whose largest program is that shape, against a large Runner.

    A batch of one is a bucket of its own: XLA multiplies a single row by another routine on a CPU.
    """
    config = CONFIGS[name]
    params = weights(config)
    large = compile(params, config, max_length=256, max_batch=8, backend="scan")
    for batch, time in ((1, 40), (3, 17)):
        exact = compile(params, config, max_length=time, max_batch=batch, backend="scan")
        shape = (batch, time) if config.batch_first else (time, batch)
        x = normal(*shape, config.input_size)
        outputs, state = exact(x)
        again, state_again = large(x)
        np.testing.assert_array_equal(again, outputs)
        np.testing.assert_array_equal(state_again.h, state.h)
        np.testing.assert_array_equal(state_again.c, state.c)


def test_rows_that_have_ended_are_not_computed() -> None:
    """Sorted by length, 1,000 sequences of 1 to 2,000 steps waste less than 10 %."""
    drawn = np.exp(np.random.default_rng(0).uniform(0, np.log(2000), 1000)).astype(int)
    lengths = np.sort(drawn)[::-1]
    batches = [lengths[k : k + 32] for k in range(0, 992, 32)]
    assert lengths[:992].sum() / sum(map(ChunkedForward.computed_steps, batches)) > 0.9
    assert ChunkedForward.computed_steps(np.array([100, 20, 1, 1])) == 4 * 16 + 2 * 96
    assert ChunkedForward.computed_steps(np.array([1, 1, 20, 100])) == 4 * 112


@pytest.mark.parametrize(("name", "backend"), [("stack", "scan"), ("both", "auto")])
def test_a_row_that_goes_on_alone_keeps_its_bits(name: str, backend: str) -> None:
    """300 steps, a long chunk among them, in a batch that shrinks from 8 rows to 2, against a batch of 2."""
    config = CONFIGS[name]
    runner = compile(weights(config), config, max_length=300, max_batch=8, backend=backend)
    lengths = np.array([300, 290, 201, 200, 33, 16, 7, 1])
    x = normal(8, 300, 7) if config.batch_first else normal(300, 8, 7)
    rows = (lambda a, k: a[k]) if config.batch_first else (lambda a, k: a[:, k])
    outputs, state = runner(x, None, lengths)
    if backend == "scan" or not kernels.info()["native"]:
        assert runner.stats().computed_steps == 8 * 48 + 4 * (208 - 48) + 2 * (304 - 208)
    for order in (slice(0, 2), slice(2, 4), slice(6, 8)):
        wanted, alone = runner(rows(x, order), None, lengths[order])
        np.testing.assert_array_equal(rows(outputs, order), wanted)
        np.testing.assert_array_equal(state.h[:, order], alone.h)
        np.testing.assert_array_equal(state.c[:, order], alone.c)


@pytest.mark.parametrize("backend", ["scan", "auto"])
def test_a_thousand_lengths_compile_a_few_programs(backend: str) -> None:
    config = CONFIGS["one"]
    runner = compile(weights(config), config, max_length=100, max_batch=1, backend=backend)
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 101, 1000)
    x = normal(100, config.input_size)
    before = compilations()
    for time in lengths:
        runner(x[:time])
    assert compilations() - before == runner.stats().compilations == len(runner.length_buckets)
    assert runner.stats().calls == 1000
    assert runner.stats().valid_steps == lengths.sum()
    chunk = 1 if backend == "auto" and kernels.info()["native"] else CHUNK
    assert runner.stats().computed_steps == (-(-lengths // chunk) * chunk).sum()


def test_nothing_compiles_after_warmup() -> None:
    config = CONFIGS["one"]
    runner = compile(weights(config), config, max_length=32, max_batch=3)
    runner.warmup()
    assert runner.stats().compilations == 2 * 3
    before = compilations()
    for batch, time in ((1, 1), (2, 17), (3, 32)):
        runner(normal(time, batch, 5), None, np.full(batch, time))
    runner.map([normal(n, 5) for n in (3, 20, 1, 32)], batch_size=3)
    assert compilations() == before


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(dtype: str) -> None:
    config = CONFIGS["one"]
    params = weights(config)
    runner = compile(params, config, max_length=16, max_batch=2, dtype=dtype)
    x = normal(9, 2, 5).astype(runner.dtype)
    cast = {name: leaf.astype(dtype) for name, leaf in params.items()}
    outputs, _ = runner(x)
    assert outputs.dtype == runner.dtype
    wanted = jax.jit(lambda x: lstm(cast, x, config=config)[0])(x)
    np.testing.assert_allclose(
        outputs.astype(np.float32), np.asarray(wanted, np.float32), atol=2e-3, rtol=0
    )


def test_float64_params_are_cast_without_the_64_bit_mode() -> None:
    """As a checkpoint in float64 comes, by ``jaxlstm run --dtype float32`` too."""
    config = CONFIGS["one"]
    params = {name: np.asarray(leaf, np.float64) for name, leaf in weights(config).items()}
    runner = compile(params, config, max_length=16, max_batch=2, dtype="float32")
    wanted, _ = compile(weights(config), config, max_length=16, max_batch=2)(normal(9, 2, 5))
    np.testing.assert_array_equal(runner(normal(9, 2, 5))[0], wanted)


DEFAULT_DEVICE = """
import jax
from jaxlstm import LSTMConfig
from jaxlstm.inference import compile
from tests.support.inference import weights
config = LSTMConfig(5, 12)
for device in (jax.devices()[1], "cpu", None):
    with jax.default_device(device):
        print(compile(weights(config), config, max_length=1, max_batch=1).device.id)
"""


def test_the_default_device_is_that_of_jax() -> None:
    done = subprocess.run(
        [sys.executable, "-c", DEFAULT_DEVICE],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["1", "0", "0"], done.stderr[-3000:]


def test_nan_stays_in_its_row() -> None:
    config = CONFIGS["both"]
    runner = compile(weights(config), config, max_length=32, max_batch=4)
    x = normal(20, 3, 7)
    clean, clean_state = runner(x)
    x[4, 1] = np.nan
    outputs, state = runner(x)
    assert np.isnan(outputs[4, 1]).all()
    np.testing.assert_array_equal(outputs[:, [0, 2]], clean[:, [0, 2]])
    np.testing.assert_array_equal(state.c[:, [0, 2]], clean_state.c[:, [0, 2]])


def test_threads_share_a_runner() -> None:
    config = CONFIGS["stack"]
    params = weights(config)
    runner = compile(params, config, max_length=64, max_batch=2)
    inputs = [normal(1 + k % 2, 1 + k, 7, seed=k) for k in range(32)]
    found: dict[int, list[np.ndarray]] = {}

    def work(k: int) -> None:
        found[k] = [runner(inputs[k])[0] for _ in range(10)]

    threads = [threading.Thread(target=work, args=(k,)) for k in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = [runner(x)[0] for x in inputs]
    for k in range(32):
        for outputs in found[k]:
            np.testing.assert_array_equal(outputs, alone[k])
    assert runner.stats().compilations == 2 * 2  # 16 and 32 steps, of one and of two
    assert runner.stats().calls == 32 * 11


def test_errors_name_the_argument() -> None:
    config = CONFIGS["one"]
    params = weights(config)
    runner = compile(params, config, max_length=16, max_batch=2)
    good = normal(4, 2, 5)
    for call, kind, message in (
        (lambda: runner(good.astype(np.float64)), TypeError, "inputs must be float32"),
        (lambda: runner(good.astype(int)), TypeError, "got int64. Cast it with .astype$"),
        (lambda: runner(good.tolist()), TypeError, "inputs must be a NumPy or JAX array"),
        (lambda: runner(normal(4, 2, 6)), ValueError, r"\(time, batch, 5\).*got \(4, 2, 6\)"),
        (lambda: runner(good[:0]), ValueError, "at least one sequence and one step"),
        (lambda: runner(normal(17, 2, 5)), ValueError, "up to 16 steps of up to 2"),
        (lambda: runner(normal(4, 3, 5)), ValueError, "got 4 of 3"),
        (lambda: runner(good, None, np.array([1, 5])), ValueError, "from 1 to .* 4"),
        (lambda: runner(good, None, np.array([0, 4])), ValueError, "got from 0 to 4"),
        (lambda: runner(good, None, np.array([1.0, 4])), TypeError, "integers"),
        (lambda: runner(good, good), TypeError, r"a pair \(h, c\)"),
        (lambda: runner(good, (good, good)), ValueError, r"h_0 must have shape \(1, 2, 12\)"),
        (lambda: runner.map([good[0]], 3), ValueError, "batch_size must be at most .* 2; got 3"),
        (lambda: runner.map([good], 2), ValueError, r"sequence 0 must have shape \(time, 5\)"),
        (lambda: runner.map([good[0]], 2, order="shuffled"), ValueError, "order must be one of"),
        (lambda: compile(params, config, max_length=0, max_batch=1), ValueError, "max_length"),
        (
            lambda: compile(params, config, max_length=1, max_batch=1, device="cpu"),
            TypeError,
            "device must be a single device from jax.devices.., or None; got 'cpu', a str",
        ),
        (
            lambda: compile(params, config, max_length=1, max_batch=1, device=jax.devices()),
            TypeError,
            r"got \[.*\], a list. For several devices use jaxlstm.inference.shard",
        ),
        (
            lambda: compile(params, config, max_length=1, max_batch=1, precision="exact"),
            ValueError,
            "precision must be 'highest'",
        ),
        (
            lambda: compile(
                {name: leaf.tolist() for name, leaf in params.items()},
                config,
                max_length=1,
                max_batch=1,
            ),
            TypeError,
            "weight_ih_l0 must be a JAX or NumPy array, got list",
        ),
    ):
        with pytest.raises(kind, match=message):
            call()


def test_a_donated_state_is_told() -> None:
    config = CONFIGS["one"]
    runner = compile(weights(config), config, max_length=16, max_batch=1)
    h, c = (jax.numpy.ones(shape) for shape in config.state_shapes(1))
    jax.jit(lambda h: h + 1, donate_argnums=0)(h)
    with pytest.raises(ValueError, match="h_0 was donated"):
        runner(normal(4, 1, 5), (h, c))
