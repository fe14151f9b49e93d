"""Streams: pieces of any size give the results of the whole sequence; memory over many calls."""

from __future__ import annotations

import gc
import itertools
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jaxlstm import LSTMConfig
from jaxlstm._shared.aligned import aligned_zeros
from jaxlstm.inference import Runner, compile
from jaxlstm.inference.compiled import CompiledState
from testing.inference import compilations, normal, reference, weights

CONFIG = LSTMConfig(5, 12, num_layers=2, batch_first=True)


@pytest.fixture(scope="module")
def runner() -> Runner:
    return compile(weights(CONFIG), CONFIG, max_length=32, max_batch=4)


def test_pieces_give_the_results_of_the_whole(runner: Runner) -> None:
    x = normal(2, 120, 5)
    stream = runner.stream(batch=2)
    # Single steps, and pieces below and above the longest bucket.
    edges = [0, 1, 2, 5, 21, 22, 100, 120]
    pieces = [stream(x[:, a:b]) for a, b in itertools.pairwise(edges)]
    expected, (h_n, c_n) = reference(weights(CONFIG), x, config=CONFIG)
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(stream.state.h, h_n, rtol=0, atol=1e-6)
    np.testing.assert_allclose(stream.state.c, c_n, rtol=0, atol=2e-6)


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


def test_reset(runner: Runner) -> None:
    x = normal(3, 10, 5)
    stream = runner.stream(3)
    fresh = stream(x)
    state = stream.state
    stream.reset(np.array([False, True, False]))
    np.testing.assert_array_equal(stream.state.h[:, [0, 2]], state.h[:, [0, 2]])
    outputs = stream(x)
    np.testing.assert_array_equal(outputs[1], fresh[1])
    assert np.abs(outputs[0] - fresh[0]).max() > 1e-3
    stream.reset()
    np.testing.assert_array_equal(stream(x), fresh)


def test_seq_lengths(runner: Runner) -> None:
    x = normal(3, 10, 5)
    stream = runner.stream(3)
    stream(x)
    before = stream.state
    outputs = stream(x, seq_lengths=np.array([0, 4, 10]))
    assert (outputs[0] == 0).all()
    assert (outputs[1, 4:] == 0).all()
    np.testing.assert_array_equal(stream.state.c[:, 0], before.c[:, 0])
    state = before.h[:, 1:2], before.c[:, 1:2]
    expected, _ = reference(weights(CONFIG), x[1:2, :4], state, config=CONFIG)
    np.testing.assert_allclose(outputs[1:2, :4], expected, rtol=0, atol=1e-6)


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


def test_rows_are_assigned_to_sequences(runner: Runner) -> None:
    """With masks, each sequence gets the outputs of a separate run, whatever the other rows do."""
    rng = np.random.default_rng(0)
    x, active, starts = normal(120, 6, 5), rng.random((120, 6)) < 0.7, rng.random((120, 6)) < 0.05
    stream = runner.stream(6)
    outputs = []
    for row, mask, start in zip(x, active, starts, strict=True):
        stream.reset(start)
        outputs.append(stream.step(row, mask))
    for row in range(6):
        edges = [0, *np.flatnonzero(starts[:, row]), 120]
        for a, b in itertools.pairwise(edges):
            steps = [t for t in range(a, b) if active[t, row]]
            if steps:
                expected, _ = reference(weights(CONFIG), x[steps, row][None], config=CONFIG)
                actual = [outputs[t][row] for t in steps]
                np.testing.assert_allclose(actual, expected[0], rtol=0, atol=1e-6)
    assert starts.any(axis=0).all()


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
MEMORY = Path("/proc/self/statm")


def resident_bytes() -> int:
    gc.collect()
    return int(MEMORY.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.skipif(not MEMORY.exists(), reason="only Linux reports the current resident memory")
@pytest.mark.parametrize("kind", ["call", "step"])
def test_memory_stays_over_100_000_calls(kind: str) -> None:
    runner = compile(weights(TIME_MAJOR), TIME_MAJOR, max_length=16, max_batch=2)
    stream, x = runner.stream(2), normal(9, 2, 5)
    calls: dict[str, Callable[[], object]] = {"call": lambda: runner(x), "step": lambda: stream.step(x[0])}
    # The first calls fill allocators and pools.
    for _ in range(5_000):
        calls[kind]()
    before = resident_bytes()
    for _ in range(100_000):
        calls[kind]()
    assert resident_bytes() - before <= 2**20
    assert runner.stats().calls == 105_000
