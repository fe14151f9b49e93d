"""A stream: the state stays between calls, and the pieces add up to the whole."""

from __future__ import annotations

import itertools
import threading
import time

import numpy as np
import pytest

from jaxlstm import LSTMConfig
from jaxlstm.inference import Runner, Slots, compile
from tests.support.inference import compilations, normal, reference, weights

CONFIG = LSTMConfig(5, 12, num_layers=2, batch_first=True)


@pytest.fixture(scope="module")
def runner() -> Runner:
    return compile(weights(CONFIG), CONFIG, max_length=32, max_batch=4)


def test_pieces_of_any_size_add_up(runner: Runner) -> None:
    x = normal(2, 120, 5)
    stream = runner.stream(batch=2)
    edges = [
        0,
        1,
        2,
        5,
        21,
        22,
        100,
        120,
    ]  # single steps, pieces below and above the longest bucket
    pieces = [stream(x[:, a:b]) for a, b in itertools.pairwise(edges)]
    wanted, (h_n, c_n) = reference(weights(CONFIG), x, config=CONFIG)
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), wanted, rtol=0, atol=1e-6)
    np.testing.assert_allclose(stream.state.h, h_n, rtol=0, atol=1e-6)
    np.testing.assert_allclose(stream.state.c, c_n, rtol=0, atol=2e-6)


def test_where_the_cuts_are_changes_no_bit(runner: Runner) -> None:
    x = normal(2, 60, 5)
    one, other = runner.stream(2), runner.stream(2)
    whole = [one(x[:, a:b]) for a, b in ((0, 30), (30, 60))]
    cut = [other(x[:, a:b]) for a, b in ((0, 2), (2, 19), (19, 27), (27, 58), (58, 60))]
    np.testing.assert_array_equal(np.concatenate(cut, 1), np.concatenate(whole, 1))
    np.testing.assert_array_equal(other.state.c, one.state.c)


def test_state_is_saved_and_restored(runner: Runner) -> None:
    x = normal(1, 20, 5)
    stream = runner.stream()
    stream(x[:, :8])
    saved = stream.state
    rest = stream(x[:, 8:])
    stream(normal(1, 9, 5, seed=3))  # the saved copy must not change with the stream
    other = runner.stream()
    other.state = saved
    np.testing.assert_array_equal(other(x[:, 8:]), rest)
    stream.state = saved
    np.testing.assert_array_equal(stream(x[:, 8:]), rest)


def test_reset_clears_the_rows_of_the_mask(runner: Runner) -> None:
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


def test_lengths_hold_rows_back(runner: Runner) -> None:
    x = normal(3, 10, 5)
    stream = runner.stream(3)
    stream(x)
    before = stream.state
    outputs = stream(x, seq_lengths=np.array([0, 4, 10]))
    assert (outputs[0] == 0).all()
    assert (outputs[1, 4:] == 0).all()
    np.testing.assert_array_equal(stream.state.c[:, 0], before.c[:, 0])
    state = before.h[:, 1:2], before.c[:, 1:2]
    wanted, _ = reference(weights(CONFIG), x[1:2, :4], state, config=CONFIG)
    np.testing.assert_allclose(outputs[1:2, :4], wanted, rtol=0, atol=1e-6)


def test_steps_compile_nothing_more_and_allocate_no_state(runner: Runner) -> None:
    stream = runner.stream(2)
    stream.step(normal(2, 5))
    before = compilations()
    for k in range(50):
        old = stream._h
        stream.step(normal(2, 5, seed=k))
        assert old.is_deleted()  # donated: its buffer is the new state's
    stream.reset()
    assert compilations() == before


def test_slots_come_and_go(runner: Runner) -> None:
    """Each stream's outputs are those of a run of its own, whatever the others do meanwhile."""
    rng = np.random.default_rng(0)
    slots = Slots(runner, 6)
    fed: dict[int, list[np.ndarray]] = {}
    got: dict[int, list[np.ndarray]] = {}
    finished = []
    for _ in range(120):
        if len(fed) < 6 and rng.random() < 0.4:
            slot = slots.open()
            fed[slot], got[slot] = [], []
        for slot in [s for s in fed if rng.random() < 0.05]:
            slots.close(slot)
            finished.append((fed.pop(slot), got.pop(slot)))
        inputs = {s: rng.standard_normal(5).astype(np.float32) for s in fed if rng.random() < 0.7}
        if inputs:
            for slot, y in slots.step(inputs).items():
                fed[slot].append(inputs[slot])
                got[slot].append(y)
    finished = [pair for pair in finished if pair[0]]
    assert len(finished) > 5
    for inputs, outputs in finished:
        wanted, _ = reference(weights(CONFIG), np.stack(inputs)[None], config=CONFIG)
        np.testing.assert_allclose(np.stack(outputs), wanted[0], rtol=0, atol=1e-6)


def test_calls_of_two_threads_do_not_mix(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """One waits for all pieces of the other, and a slot that is opened meanwhile starts from zeros."""
    x = normal(1, 60, 5)  # two pieces
    stream = runner.stream()
    one = stream(x)
    two = stream(-x)
    stream.reset()
    first = threading.Event()
    original = runner._engine.count

    def counted(*steps: int) -> None:  # after each piece
        if not first.is_set():
            first.set()
            time.sleep(0.2)
        original(*steps)

    monkeypatch.setattr(runner._engine, "count", counted)
    found: list[np.ndarray] = []
    other = threading.Thread(target=lambda: first.wait() and found.append(stream(-x)))
    other.start()
    np.testing.assert_array_equal(stream(x), one)
    other.join()
    np.testing.assert_array_equal(found[0], two)


def test_a_slot_opened_during_a_step_starts_from_zeros(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots = Slots(runner, 2)
    first, old = slots.open(), slots.open()
    row = normal(5)
    fresh = slots.step({old: row})[old]
    slots.close(old)
    slots.close(first)
    first = slots.open()
    reset, opened = slots.stream.reset, []
    other = threading.Thread(target=lambda: opened.append(slots.open()))

    def meanwhile(mask: np.ndarray) -> None:
        reset(mask)
        other.start()
        other.join(timeout=0.2)  # waits where there is a lock

    monkeypatch.setattr(slots.stream, "reset", meanwhile)
    slots.step({first: row})
    monkeypatch.undo()
    other.join()
    np.testing.assert_array_equal(slots.step({opened[0]: row})[opened[0]], fresh)


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
    slots = Slots(runner, 1)
    slot = slots.open()
    with pytest.raises(RuntimeError, match="all 1 slots are open"):
        slots.open()
    assert slots.step({}) == {}
    with pytest.raises(ValueError, match=r"the input of slot 0 must have shape \(5,\), got \(4,\)"):
        slots.step({slot: normal(4)})
    with pytest.raises(TypeError, match="the input of slot 0 must be float32"):
        slots.step({slot: np.zeros(5)})
    slots.close(slot)
    with pytest.raises(ValueError, match="slot 0 is not open"):
        slots.step({0: normal(5)})
