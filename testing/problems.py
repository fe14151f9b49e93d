"""Random calls of LSTMs and GRUs with awkward shapes for a kernel, and the instruction set that runs them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm import LSTMConfig, LSTMState, kernels
from jaxlstm.functional import run_layers
from jaxlstm.kernels.cpu.library import library
from jaxlstm.layer.config import GRUConfig, LayerConfig
from jaxlstm.layer.precision import gate_dtype
from testing.inference import random_params

needs_native = pytest.mark.skipif(
    not kernels.info()["native"], reason=f"no native kernel: {kernels.info()['reason']}"
)


class Problem(NamedTuple):
    """The sizes of a one-layer call. ``ragged`` draws random sequence lengths."""

    time: int
    batch: int
    input_size: int
    hidden_size: int
    proj_size: int = 0
    bidirectional: bool = False
    bias: bool = True
    ragged: bool = False
    gru: bool = False

    def __str__(self) -> str:
        flags = ["bi"] * self.bidirectional + ["nobias"] * (not self.bias) + ["ragged"] * self.ragged
        flags += ["gru"] * self.gru
        sizes = f"T{self.time}-B{self.batch}-I{self.input_size}-H{self.hidden_size}"
        return "-".join([sizes, *([f"P{self.proj_size}"] if self.proj_size else []), *flags])


# A vector holds 4, 8 or 16 units, a register block 2, 3 or 6 rows, and a panel up to 64 columns.
ODD = [
    Problem(1, 1, 1, 1),
    Problem(7, 1, 3, 7, bidirectional=True),
    Problem(9, 2, 5, 33, ragged=True),
    Problem(5, 3, 4, 17, proj_size=5, bidirectional=True, ragged=True),
    Problem(40, 4, 8, 70, bias=False, ragged=True, bidirectional=True),
    Problem(3, 129, 6, 16, ragged=True),
    Problem(6, 13, 40, 130, proj_size=64, bias=False),
    Problem(3, 64, 8, 8, proj_size=3, ragged=True),
    Problem(2, 5, 200, 1000),
    Problem(600, 1, 2, 40),
    Problem(9, 4, 5, 33, bidirectional=True, ragged=True, gru=True),
    Problem(12, 29, 40, 130, bias=False, gru=True),
]


def draw(problem: Problem, dtype: Any, seed: int = 0) -> tuple[Any, dict, Any, Any, Any]:
    """Draw the config, params, inputs, state and lengths (None unless ragged) of a problem."""
    rng = np.random.default_rng(seed)
    sizes = problem.input_size, problem.hidden_size
    options: dict[str, Any] = {"bias": problem.bias, "bidirectional": problem.bidirectional}
    if problem.gru:
        config: LayerConfig = GRUConfig(*sizes, **options)
    else:
        config = LSTMConfig(*sizes, **options, proj_size=problem.proj_size)
    params = {n: jnp.asarray(a, dtype) for n, a in random_params(config, seed + 1, dtype=float).items()}
    inputs = jnp.asarray(rng.standard_normal((problem.time, problem.batch, problem.input_size)), dtype)
    shapes = config.state_shapes(problem.batch)
    leaves = [jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes]
    state = leaves[0] if problem.gru else LSTMState(*leaves)
    lengths = jnp.asarray(rng.integers(1, problem.time + 1, problem.batch)) if problem.ragged else None
    return config, params, inputs, state, lengths


def rms(actual: Any, expected: Any) -> float:
    """Return the root mean square of the differences, computed in float64."""
    difference = np.asarray(actual, np.float64) - np.asarray(expected, np.float64)
    return float(np.sqrt(np.mean(difference**2)))


def values_and_gradients(problem: Problem, dtype: Any, backend: str) -> Any:
    """Return the gradients of a nonlinear loss by all arguments, the outputs and the last state."""
    config, params, inputs, state, lengths = draw(problem, dtype)

    @jax.jit
    def run(params: Any, inputs: Any, state: Any) -> Any:
        def loss(params: Any, inputs: Any, state: Any) -> Any:
            call = {"config": config, "seq_lengths": lengths, "backend": backend}
            outputs, last = run_layers(params, inputs, state, **call)
            numbers = jnp.arange(outputs.size, dtype=gate_dtype(dtype))  # may exceed the largest float16
            weights = jnp.cos(numbers).astype(dtype).reshape(outputs.shape)
            h, *c = jax.tree.leaves(last)
            total = (weights * outputs).sum() + (h**2).sum() + sum(jnp.sin(leaf).sum() for leaf in c)
            return total, (outputs, last)

        return jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(params, inputs, state)

    return run(params, inputs, state)


def worst_error(actual: Any, expected: Any) -> float:
    """Return the largest difference of two trees, relative to each leaf's largest entry (at least 1).

    The result is NaN if any entry is. NumPy avoids compiling a JAX program for every shape.
    """
    pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
    arrays = [(np.asarray(a), np.asarray(e)) for a, e in pairs]
    # An array of another shape may broadcast.
    assert [a.shape for a, _ in arrays] == [e.shape for _, e in arrays]
    return float(np.max([np.abs(a - e).max() / max(1.0, np.abs(e).max()) for a, e in arrays if e.size]))


@contextmanager
def using(name: str) -> Iterator[None]:
    """Use an instruction set, or skip the test if this machine lacks it."""
    handle = library().handle
    assert handle is not None
    default = library().instruction_set
    if not handle.jaxlstm_use_instruction_set(name.encode()):
        pytest.skip(f"this processor or build has no {name}")
    try:
        yield
    finally:
        handle.jaxlstm_use_instruction_set(default.encode())
