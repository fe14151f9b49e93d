"""Streams: pieces of any size give the results of the whole sequence; memory over many calls."""

import functools
import gc
import threading
import time
from collections.abc import Callable

import jax
import numpy as np
import pytest

from jaxlstm import LSTMConfig, lstm
from jaxlstm._shared.aligned import aligned_zeros
from jaxlstm.inference import Runner, Stream, compile
from jaxlstm.inference.compiled import CompiledState
from jaxlstm.inference.host_arrays import time_major
from testing.inference import compilations, normal, weights
from testing.problems import needs_native
from testing.processes import resident_bytes

CONFIG = LSTMConfig(5, 12, num_layers=2, batch_first=True)


@pytest.fixture(scope="module")
def runner() -> Runner:
    return compile(weights(CONFIG), CONFIG, max_length=32, max_batch=4)


@pytest.mark.parametrize(
    ("config", "backend", "batches"),
    [
        (CONFIG, "scan", (1, 3)),
        # Large enough for helper threads.
        pytest.param(LSTMConfig(40, 160, num_layers=2), "native", (1, 3, 24), marks=needs_native),
    ],
    ids=["scan", "native"],
)
def test_a_stream_equals_lstm(config: LSTMConfig, backend: str, batches: tuple[int, ...]) -> None:
    """Steps, chunks longer than a call, masks, resets, strided inputs; bit for bit on the native kernel."""
    rng, params, hidden = np.random.default_rng(0), weights(config), config.hidden_size
    by_lstm = jax.jit(functools.partial(lstm, config=time_major(config), backend=backend))
    runner = compile(params, config, max_length=4, max_batch=4, backend=backend)
    tolerance = 0 if backend == "native" else 2e-6

    def call(stream: Stream, x: np.ndarray, *lengths: np.ndarray) -> np.ndarray:
        return (
            stream(x.swapaxes(0, 1), *lengths).swapaxes(0, 1) if config.batch_first else stream(x, *lengths)
        )

    for batch in batches:
        stream, state = runner.stream(batch), (np.zeros((2, batch, hidden), np.float32),) * 2
        for number in range(12):
            x = rng.standard_normal((config.input_size, batch, 7)).astype(np.float32).transpose(2, 1, 0)
            active, lengths = rng.random(batch) < 0.7, rng.integers(0, 8, batch)
            if number % 4 == 3:
                x[np.arange(7)[:, None] >= lengths] = np.nan
            method, arguments, chunk, valid = (
                (Stream.step, (x[0],), x[:1], np.ones(batch, int)),
                (Stream.step, (x[1], active), x[1:2], active.astype(int)),
                (call, (x,), x, np.full(batch, 7)),
                (call, (x, lengths), x, lengths),
            )[number % 4]
            outputs = method(stream, *arguments).reshape(len(chunk), batch, hidden)
            expected, state = by_lstm(params, chunk, state, seq_lengths=valid)
            np.testing.assert_allclose(outputs, expected, rtol=0, atol=tolerance)
            if number % 5 == 4:
                stream.reset(active)
                state = tuple(np.where(active[:, None], 0, leaf) for leaf in state)
            for leaf, other in zip(stream.state, state, strict=True):
                np.testing.assert_allclose(leaf, other, rtol=0, atol=tolerance)
        stream.reset()
        assert not any(leaf.any() for leaf in stream.state)


def test_save_and_restore_the_state(runner: Runner) -> None:
    x = normal(1, 20, 5)
    stream = runner.stream()
    stream(x[:, :8])
    saved = stream.state
    rest = stream(x[:, 8:])
    stream(normal(1, 9, 5, seed=3))  # must not change the saved copy
    other = runner.stream()
    other.state = saved
    np.testing.assert_array_equal(other(x[:, 8:]), rest)
    stream.state = saved
    np.testing.assert_array_equal(stream(x[:, 8:]), rest)


def test_the_state_is_read_before_the_assignment_returns() -> None:
    config = LSTMConfig(2, 512)
    stream = compile(weights(config), config, max_length=4, max_batch=1, backend="scan").stream(1024)
    for _ in range(20):
        state = [aligned_zeros(shape, np.dtype(np.float32)) for shape in config.state_shapes(1024)]
        stream.state = state
        for leaf in state:
            leaf[...] = 1
        assert not any(leaf.any() for leaf in stream.state)


def test_steps_compile_nothing_and_allocate_no_state() -> None:
    runner = compile(weights(CONFIG), CONFIG, max_length=32, max_batch=4, backend="scan")
    stream = runner.stream(2)
    stream.step(normal(2, 5))
    state = stream._state
    assert isinstance(state, CompiledState)
    before = compilations()
    for k in range(50):
        old = state._h
        stream.step(normal(2, 5, seed=k))
        assert old.is_deleted()  # donated: the new state has its buffer
    stream.reset()
    assert compilations() == before


def test_calls_of_two_threads_do_not_mix(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call waits for all pieces of a call in another thread."""
    x = normal(1, 60, 5)  # two pieces
    stream = runner.stream()
    one = stream(x)
    two = stream(-x)
    stream.reset()
    first_piece = threading.Event()
    work = runner._engine.work
    original = work.add_call

    def slow_count(*steps: int) -> None:
        if not first_piece.is_set():
            first_piece.set()
            time.sleep(0.2)
        original(*steps)

    monkeypatch.setattr(work, "add_call", slow_count)
    results: list[np.ndarray] = []
    other = threading.Thread(target=lambda: first_piece.wait() and results.append(stream(-x)))
    other.start()
    np.testing.assert_array_equal(stream(x), one)
    other.join()
    np.testing.assert_array_equal(results[0], two)


def test_errors(runner: Runner) -> None:
    both = LSTMConfig(5, 6, bidirectional=True)
    with pytest.raises(ValueError, match="reverse direction starts at the last step"):
        compile(weights(both), both, max_length=8, max_batch=1).stream()
    stream = runner.stream(2)
    with pytest.raises(ValueError, match="must have the 2 sequences of this stream, got 3"):
        stream(normal(3, 4, 5))
    with pytest.raises(ValueError, match=r"x must have shape \(2, 5\)"):
        stream.step(normal(2, 4))
    with pytest.raises(TypeError, match="x must be float32"):
        stream.step(np.zeros((2, 5)))
    with pytest.raises(ValueError, match=r"mask must be a bool array of shape \(2,\)"):
        stream.reset(np.array([1, 0]))
    with pytest.raises(ValueError, match=r"h_0 must have shape \(2, 2, 12\)"):
        stream.state = (np.zeros((1, 2, 12), np.float32), np.zeros((2, 2, 12), np.float32))


TIME_MAJOR = LSTMConfig(5, 12, num_layers=2)


@pytest.mark.slow
@pytest.mark.skipif(not resident_bytes(), reason="only Linux reports the current resident memory")
@pytest.mark.parametrize("kind", ["call", "step"])
def test_memory_stays_over_100_000_calls(kind: str) -> None:
    runner = compile(weights(TIME_MAJOR), TIME_MAJOR, max_length=16, max_batch=2)
    stream, x = runner.stream(2), normal(9, 2, 5)
    calls: dict[str, Callable[[], object]] = {"call": lambda: runner(x), "step": lambda: stream.step(x[0])}
    # The first calls fill allocators and pools.
    for _ in range(5_000):
        calls[kind]()
    gc.collect()
    before = resident_bytes()
    for _ in range(100_000):
        calls[kind]()
    gc.collect()
    assert resident_bytes() - before <= 2**20
    assert runner.stats().calls == 105_000
