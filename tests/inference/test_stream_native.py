"""Streams on the native kernel: same bits as one call, and helper threads that leave nothing behind."""

import os
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from jaxlstm import LSTMConfig
from jaxlstm.inference import Runner, Stream, compile
from jaxlstm.kernels.cpu.stack import LayerStack, available_threads
from testing.inference import compilations, normal, weights
from testing.problems import needs_native
from testing.processes import run_python

pytestmark = needs_native

# Large enough for helper threads, which a step of fewer than 80,000 weights does not take.
CONFIG = LSTMConfig(40, 160, num_layers=2)
TASKS = Path("/proc/self/task")


@pytest.fixture(scope="module")
def runner() -> Runner:
    return compile(weights(CONFIG), CONFIG, max_length=64, max_batch=4)


@pytest.fixture(scope="module")
def expected(runner: Runner) -> np.ndarray:
    """The outputs of one call, (time, batch, features)."""
    return runner(normal(60, 2, 40))[0]


def steps(stream: Stream) -> np.ndarray:
    """Return the outputs of :func:`expected`, step by step."""
    return np.stack([stream.step(x) for x in normal(60, 2, 40)])


@pytest.mark.parametrize("spin", [0, 1e-5, 1e-3, 0.1])
def test_steps_have_the_bits_of_one_call(runner: Runner, expected: np.ndarray, spin: float) -> None:
    stream = runner.stream(2, spin=spin)
    assert isinstance(stream._state, LayerStack)
    for _ in range(3):
        np.testing.assert_array_equal(steps(stream), expected)
        stream.reset()


def test_padding_does_not_matter(runner: Runner) -> None:
    """Inputs of inactive sequences and after each length may hold NaN."""
    x, lengths = normal(5, 20, 40), np.arange(20) % 6
    padding = np.arange(5)[:, None, None] >= lengths[:, None]
    clean, dirty = runner.stream(20), runner.stream(20)
    expected = clean(np.where(padding, 0, x).astype(np.float32), lengths)
    np.testing.assert_array_equal(dirty(np.where(padding, np.nan, x).astype(np.float32), lengths), expected)
    active = lengths > 2
    expected = clean.step(x[0], active)
    unused = np.where(active[:, None], x[0], np.nan).astype(np.float32)
    np.testing.assert_array_equal(dirty.step(unused, active), expected)


def test_steps_compile_nothing_and_return_new_arrays(runner: Runner) -> None:
    before = compilations()
    stream = runner.stream(2)
    outputs = [stream.step(x) for x in normal(5, 2, 40)]
    outputs += list(stream(normal(5, 2, 40)))
    stream.reset()
    assert len({y.ctypes.data for y in outputs}) == 10
    assert compilations() == before


def test_many_threads_with_a_stream_each(runner: Runner, expected: np.ndarray) -> None:
    with ThreadPoolExecutor(4) as pool:
        for outputs in pool.map(steps, [runner.stream(2) for _ in range(12)]):
            np.testing.assert_array_equal(outputs, expected)


def test_many_threads_with_one_stream(runner: Runner) -> None:
    """Steps of several threads run one after another, so the state advances by all of them."""
    x = normal(2, 40)
    stream, alone = runner.stream(2), runner.stream(2)
    with ThreadPoolExecutor(4) as pool:
        outputs = list(pool.map(lambda _: stream.step(x), range(40)))
    in_order = [alone.step(x) for _ in range(40)]
    assert {y.tobytes() for y in outputs} == {y.tobytes() for y in in_order}


@pytest.mark.skipif(not TASKS.exists(), reason="counts threads in /proc")
def test_streams_leave_nothing_behind(runner: Runner) -> None:
    """The helpers belong to the process. A stream is collected while they spin."""
    before = len(list(TASKS.iterdir()))
    for _ in range(40):
        stream = runner.stream(2, spin=0.01)
        collected = weakref.ref(stream)
        for x in normal(4, 2, 40):
            stream.step(x)
        del stream
        assert collected() is None  # without a cycle that waits for the garbage collector
    assert len(list(TASKS.iterdir())) <= before + available_threads() - 1


@pytest.mark.parametrize("spin", [-1.0, float("nan"), float("inf")])
def test_spin_is_checked(runner: Runner, spin: float) -> None:
    with pytest.raises(ValueError, match="spin must be a number of seconds, at least 0"):
        runner.stream(spin=spin)


IN_A_PROCESS = """
import faulthandler, os, sys, threading, time
import numpy as np
from jaxlstm import LSTMConfig
from jaxlstm.inference import compile
from testing.inference import weights

config = LSTMConfig(40, 160, num_layers=2)
runner = compile(weights(config), config, max_length=16, max_batch=2)
stream, other = runner.stream(spin=1e6), runner.stream(spin=1e6)
faulthandler.dump_traceback_later(900, exit=True)  # waits for a helper
x = np.ones((1, 40), np.float32)
end = time.monotonic() + 0.2
while time.monotonic() < end:
    y = stream.step(x)  # the helpers are awake now
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_has_its_own_helpers() -> None:
    code = (
        IN_A_PROCESS
        + """
for _ in range(3):
    expected = [other.step(x) for _ in range(50)]
    other.reset()
    child = os.fork()
    if child == 0:
        again = [other.step(x) for _ in range(50)]
        os._exit(0 if all((a == b).all() for a, b in zip(again, expected)) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    again = [other.step(x) for _ in range(50)]
    assert all((a == b).all() for a, b in zip(again, expected))
    other.reset()
print("same bits")
"""
    )
    assert run_python("-W", "ignore", "-c", code) == "same bits\n"


@pytest.mark.skipif(not TASKS.exists(), reason="reads context switches in /proc")
def test_helpers_do_not_wake_on_the_core_of_their_caller() -> None:
    """There they would keep it from running: on one core, steps with pauses leave the helper asleep."""
    code = """
import os, time
from pathlib import Path
import numpy as np
from jaxlstm import LSTMConfig
from jaxlstm.inference import compile
from testing.inference import weights

os.environ["NPROC"] = "2"
config = LSTMConfig(512, 512, num_layers=2)  # long enough to wait for a helper
stream = compile(weights(config), config, max_length=16, max_batch=1).stream()
x = np.ones((1, 512), np.float32)
before = set(os.listdir("/proc/self/task"))
stream.step(x)
(helper,) = set(os.listdir("/proc/self/task")) - before

def switches():
    time.sleep(0.01)
    lines = Path(f"/proc/self/task/{helper}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("voluntary"))

os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
slept = switches()
for _ in range(100):
    time.sleep(0.002)
    stream.step(x)
print(switches() - slept)
"""
    assert run_python("-W", "ignore", "-c", code) == "0\n"


@pytest.mark.quick("exit", "in-a-step")
@pytest.mark.parametrize(
    "ending",
    [
        "sys.exit(0)",
        "os._exit(0)",
        "step = lambda: any(other.step(x) is None for _ in range(10**9))\n"
        "threading.Thread(target=step, daemon=True).start()\n"
        "time.sleep(0.05)",
        "sys.modules['__main__'].stream = None",
    ],
    ids=["exit", "at-once", "in-a-step", "collected"],
)
def test_the_process_ends_while_helpers_spin(ending: str) -> None:
    """Otherwise it would wait for the helpers, which spin for days."""
    assert run_python("-c", IN_A_PROCESS + ending) == ""
