"""The sizes to measure, the random numbers and calls of every implementation, and the comparison of results.

Results are compared with the checker's float64 oracle before an implementation is timed.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.parts import Settings
from jaxlstm.check.reference.oracle import OracleCall
from jaxlstm.check.reference.oracle_lstm import backward
from jaxlstm.functional import lstm
from jaxlstm.inference import compile
from jaxlstm.layer.config import LSTMConfig
from testing.inference import random_params


class Size(NamedTuple):
    """T time steps, B sequences and a config. Ragged sequences have lengths from 1 to T in random order."""

    time: int
    batch: int
    config: LSTMConfig
    ragged: bool = False

    @property
    def label(self) -> str:
        """ "T, B, I, H, layers", followed by the unusual options."""
        c = self.config
        parts = [*map(str, (self.time, self.batch, c.input_size, c.hidden_size, c.num_layers))]
        parts += ["bidirectional"] if c.bidirectional else []
        parts += [f"proj_size {c.proj_size}"] if c.proj_size else []
        parts += ["ragged"] if self.ragged else []
        return ", ".join(parts)


# One sequence and batches; weights that fit a core's cache and weights that do not.
_UNUSUAL = (
    Size(100, 16, LSTMConfig(128, 256, num_layers=2, bidirectional=True)),
    Size(100, 16, LSTMConfig(256, 512, proj_size=128)),
)
SIZES = {
    "infer": (
        Size(128, 1, LSTMConfig(256, 256)),
        Size(128, 1, LSTMConfig(512, 512)),
        Size(1000, 1, LSTMConfig(64, 128)),
        Size(128, 32, LSTMConfig(512, 512)),
        Size(512, 64, LSTMConfig(256, 256)),
        Size(64, 128, LSTMConfig(128, 1024)),
        Size(100, 16, LSTMConfig(40, 256, num_layers=3)),
        *_UNUSUAL,
        Size(512, 64, LSTMConfig(256, 256), ragged=True),
    ),
    "train": (
        Size(128, 1, LSTMConfig(512, 512)),
        Size(128, 32, LSTMConfig(512, 512)),
        Size(512, 64, LSTMConfig(256, 256)),
        Size(100, 16, LSTMConfig(40, 256, num_layers=3)),
        *_UNUSUAL,
        Size(128, 64, LSTMConfig(256, 256), ragged=True),  # 512 steps take torch 16 seconds
    ),
}
TINY_SIZES = {
    "infer": (
        Size(5, 2, LSTMConfig(3, 4, num_layers=2, bidirectional=True)),
        Size(5, 3, LSTMConfig(3, 4), ragged=True),
        Size(5, 2, LSTMConfig(3, 4, proj_size=2)),
    ),
    "train": (Size(5, 3, LSTMConfig(3, 4), ragged=True), Size(5, 2, LSTMConfig(3, 4, proj_size=2))),
}
"""Small sizes with every unusual option, to test that the benchmark runs."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """A size with numbers.

    Attributes:
      params: parameters under torch's names, drawn from torch's initial distribution. They and the inputs are
        float32 arrays whose numbers ``dtype`` holds exactly.
      inputs: (T, B, input_size), standard normal.
      lengths: int32 (B,) if ragged, else None.
    """

    size: Size
    params: dict[str, np.ndarray]
    inputs: np.ndarray
    lengths: np.ndarray | None
    dtype: str = "float32"

    @property
    def config(self) -> LSTMConfig:
        """The config of the LSTM."""
        return self.size.config


def make_problem(size: Size, dtype: str = "float32") -> Problem:
    """Draw the numbers of a size. Ragged lengths are spread evenly from 1 to T and shuffled."""
    rng = np.random.default_rng(0)

    def rounded(array: np.ndarray) -> np.ndarray:
        return array.astype(dtype).astype(np.float32)

    params = {name: rounded(array) for name, array in random_params(size.config, 1).items()}
    inputs = rounded(rng.standard_normal((size.time, size.batch, size.config.input_size), np.float32))
    lengths = None
    if size.ragged:
        lengths = rng.permutation(np.linspace(1, size.time, size.batch).astype(np.int32))
    return Problem(size, params, inputs, lengths, dtype)


# The largest error that passes, by dtype and mode: absolute for outputs, which lie between -1 and 1, and
# relative to the largest element for each gradient. Rounding the operands of every product to the 10 bits of
# float16 gave errors up to 3e-4 and 6e-4 over several sizes, to the 7 bits of bfloat16 up to 3e-3 and 5e-3.
TOLERANCES = {
    "float32": {"infer": 1e-5, "train": 1e-4},
    "float16": {"infer": 2e-3, "train": 4e-3},
    "bfloat16": {"infer": 2e-2, "train": 4e-2},
}


def expected_arrays(problem: Problem, mode: str) -> dict[str, np.ndarray]:
    """Return the oracle's ``outputs``, or its gradients under ``inputs`` and the parameters' names."""
    call = OracleCall.of(problem.params, problem.inputs, None, problem.lengths, problem.config)
    forward = call.run()
    if mode == "infer":
        return {"outputs": forward.outputs}
    cotangents = (2 * forward.outputs, np.zeros_like(forward.h_n), np.zeros_like(forward.c_n))
    gradients = backward(call, forward, cotangents)
    return {name: gradient for name, gradient in gradients.items() if name not in ("h_0", "c_0")}


def fault_of(result: Any, expected: dict[str, np.ndarray], mode: str, dtype: str) -> str | None:
    """Return a description of the first array out of tolerance, or None."""
    for name, array in _by_name(result, mode).items():
        on_host = array.float().cpu() if hasattr(array, "cpu") else array  # NumPy has no bfloat16
        actual, reference = np.asarray(on_host).astype(np.float64), expected[name]
        if actual.shape != reference.shape:
            return f"{name}: shape {actual.shape}, expected {reference.shape}"
        scale = 1.0 if mode == "infer" else float(np.abs(reference).max())
        error = float(np.abs(actual - reference).max()) / scale
        tolerance = TOLERANCES[dtype][mode]
        if not error <= tolerance:  # NaN fails too
            label = name if mode == "infer" else f"the gradient of {name}"
            return f"{label} differs from the float64 oracle by {error:.2g} (allowed: {tolerance:g})"
    return None


def _by_name(result: Any, mode: str) -> dict[str, Any]:
    """The arrays of a result under the names of `expected_arrays`; a library's own tree is left out."""
    if mode == "infer":
        return {"outputs": result}
    inputs, weights = result
    return {"inputs": inputs, **(weights if isinstance(weights, Mapping) else {})}


class Unsupported(Exception):  # noqa: N818, not an error: the benchmark goes on
    """A library cannot run this problem. The message gives the reason."""


def no_training() -> Any:
    """Say that a library does not train."""
    raise Unsupported("does not train")


class Implementation(NamedTuple):
    """Two calls that return when their work is done.

    Attributes:
      infer: returns the outputs (T, B, D*h_size), zero after the end of each sequence.
      train: returns the gradients of the sum of squared outputs with respect to the inputs and to the
        weights: a dict under torch's names, or the library's own tree.
    """

    infer: Callable[[], Any]
    train: Callable[[], tuple[Any, Any]] = no_training


def in_jax(apply: Callable[[Any, Any, Any], jax.Array], weights: Any, problem: Problem) -> Implementation:
    """Jit ``apply(weights, inputs, lengths) -> outputs`` and its gradient; both compile when first called."""
    x = jnp.asarray(problem.inputs, problem.dtype)
    lengths = None if problem.lengths is None else jnp.asarray(problem.lengths)

    def loss(x: Any, weights: Any, lengths: Any) -> jax.Array:
        return jnp.sum(apply(weights, x, lengths) ** 2)

    infer = jax.jit(apply)
    train = jax.jit(jax.grad(loss, argnums=(0, 1)))
    return Implementation(
        lambda: jax.block_until_ready(infer(weights, x, lengths)),
        lambda: jax.block_until_ready(train(x, weights, lengths)),
    )


def own(problem: Problem, settings: Settings) -> Implementation:
    """Return ``jaxlstm.lstm`` as one jitted call, which includes packing the weights."""
    params = {name: jnp.asarray(value, problem.dtype) for name, value in problem.params.items()}

    def apply(params: Any, x: Any, lengths: Any) -> jax.Array:
        return lstm(params, x, config=problem.config, seq_lengths=lengths)[0]

    return in_jax(apply, params, problem)


def runner(problem: Problem, settings: Settings) -> Implementation:
    """Return a Runner, which packs the weights once."""
    call = compile(
        problem.params,
        problem.config,
        max_length=problem.size.time,
        max_batch=problem.size.batch,
        dtype=problem.dtype,
    )
    x = jnp.asarray(problem.inputs, problem.dtype)
    return Implementation(lambda: call(x, None, problem.lengths)[0])
