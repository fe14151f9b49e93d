"""Cases that need a separate process, run by ``tests/kernels/test_choice.py``.

Each command line argument names a function of this module. The test reads the output.
"""

import faulthandler
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm import lstm
from jaxlstm.kernels.cpu import ffi
from testing.problems import Problem, draw

CONFIG, PARAMS, X, STATE, _ = draw(Problem(30, 8, 30, 128), jnp.float32)


def step(x: jax.Array, backend: str = "native") -> Any:
    """Return gradients and outputs."""

    def loss(params: Any, x: jax.Array) -> Any:
        outputs = lstm(params, x, STATE, config=CONFIG, backend=backend)[0]
        return (outputs**2).sum(), outputs

    return jax.grad(loss, argnums=(0, 1), has_aux=True)(PARAMS, x)


def run_concurrently(function: Callable[[Any], Any], inputs: list, times: int) -> None:
    """Call a function with each input in a separate thread, and require the same bits every time."""
    expected = [jax.block_until_ready(function(x)) for x in inputs]

    def work(x: Any, right: Any) -> None:
        for _ in range(times):
            assert all(map(np.array_equal, jax.tree.leaves(function(x)), jax.tree.leaves(right)))

    with ThreadPoolExecutor(len(inputs)) as pool:
        list(pool.map(work, inputs, expected))
    print("done")


def python_threads() -> None:
    run_concurrently(jax.jit(step), [X * (1 + n) for n in range(6)], 10)


def full_pool() -> None:
    """Run six programs with sixteen independent recurrences each; every call asks for eight threads.

    XLA's pool has one thread per core. If calls waited for helper threads, they would deadlock.
    """
    ffi.THREADS = 8
    many = jax.jit(lambda x: [step(x * (1 + n)) for n in range(16)])
    run_concurrently(many, [X * (1 + n) for n in range(6)], 3)


def one_core() -> None:
    """Print the least processor time of 20 calls with one thread, and with two threads that share a core."""
    config, params, x, *_ = draw(Problem(1000, 1, 64, 128), jnp.float32)
    for threads in (1, 2):
        ffi.THREADS = threads
        call = jax.jit(lambda x: lstm(params, x, config=config, backend="native")[0])
        jax.block_until_ready(call(x))
        core = min(os.sched_getaffinity(0))
        for thread in os.listdir("/proc/self/task"):
            os.sched_setaffinity(int(thread), {core})
        times = []
        for _ in range(3):  # another process on the core may stop a thread for which the other one waits
            start = time.process_time()
            for _ in range(20):
                jax.block_until_ready(call(x))
            times.append(time.process_time() - start)
        print(min(times))


if __name__ == "__main__":
    faulthandler.dump_traceback_later(900, exit=True)  # a deadlock
    for name in sys.argv[1:]:
        globals()[name]()
