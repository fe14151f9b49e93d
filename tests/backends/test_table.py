"""The table of cases and the checker on each backend; single sequences and batches.

On the CPU, a test takes a selection of the cases. Tests of a backend without a device are skipped.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
import torch

from jaxlstm import LSTMConfig, lstm
from jaxlstm.check import verify
from jaxlstm.check.reference.oracle import OracleCall
from testing.cases import CASES, HALF, Case, check, functional, linen_module, nnx_module
from testing.verification import random_params

BACKENDS = ("cpu", pytest.param("gpu", marks=pytest.mark.gpu), pytest.param("tpu", marks=pytest.mark.tpu))


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run JAX on the first device of the backend during the test, and return the name of the backend."""
    name = request.param
    try:
        device = jax.devices(name)[0]
    except RuntimeError as error:
        pytest.skip(f"no {name} here: {str(error).splitlines()[0]}")
    with jax.default_device(device):
        yield name


ON_GPU = pytest.mark.parametrize("backend", BACKENDS[1:2], indirect=True)
ON_ACCELERATORS = pytest.mark.parametrize("backend", BACKENDS[1:], indirect=True)
DTYPES = (np.float64, np.float32, np.float16, ml_dtypes.bfloat16)
FEW = [(HALF[11], np.float64), (HALF[30], np.float32), (HALF[49], ml_dtypes.bfloat16)]


def test_functional(backend: str) -> None:
    for case, dtype in FEW if backend == "cpu" else itertools.product(CASES, DTYPES):
        # A TPU emulates float64 by two float32, with lower precision.
        if (backend, dtype) != ("tpu", np.float64):
            check(case, dtype, functional(case))


@pytest.mark.parametrize("module", [nnx_module, linen_module], ids=["nnx", "linen"])
def test_modules(backend: str, module: Any) -> None:
    for case in HALF[13:14] if backend == "cpu" else HALF:
        check(case, np.float32, module(case))


@ON_GPU
def test_against_torch_on_the_gpu(backend: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip(f"torch {torch.__version__} sees no CUDA device")
    for case, dtype in itertools.product(CASES, DTYPES[:2]):
        check(case, dtype, functional(case), torch_device="cuda")


def test_detects_lower_precision(backend: str) -> None:
    """Inputs and weights have the ten bits of TF32, as with JAX's default precision on a GPU."""

    def rounded(array: jax.Array) -> jax.Array:
        return jax.lax.reduce_precision(array, exponent_bits=8, mantissa_bits=10)

    def in_tf32(case: Case) -> Any:
        right = functional(case)

        def run(params: Any, inputs: Any, *arguments: Any) -> Any:
            weights = {name: rounded(a) if a.ndim == 2 else a for name, a in params.items()}
            return right(weights, rounded(inputs), *arguments)

        return run

    for case in HALF[13:14] if backend == "cpu" else HALF:
        with pytest.raises(AssertionError, match="RMS error"):
            check(case, np.float32, in_tf32(case))


@ON_ACCELERATORS
@pytest.mark.parametrize("precision", ["tensorfloat32", "bfloat16"])
def test_lower_precision_settings_fail(backend: str, precision: str) -> None:
    """The checker distinguishes the faster settings from float32."""
    config = LSTMConfig(64, 128)
    if backend == "gpu" and float(jax.devices("gpu")[0].compute_capability) < 8:
        pytest.skip("a GPU before Ampere has no TF32")
    report = verify(None, random_params(config), config, gradients=False, precision=precision)
    assert not report.ok, str(report)


TIME, BATCH = 40, 32
CONFIGS = {
    "plain": LSTMConfig(64, 128),
    "rich": LSTMConfig(40, 64, num_layers=2, bidirectional=True, proj_size=32),
}
# Outputs are below 1. The rounding error of TF32 is 2**-11, about 500 times as large.
ROUNDING = 8 * np.finfo(np.float32).eps


def largest_difference(config: LSTMConfig, run: Any) -> float:
    """Return the largest difference between a sequence with batch size 1, in a batch, and in float64."""
    rng = np.random.default_rng(0)
    params = random_params(config, scale=2.0)
    x = rng.standard_normal((TIME, BATCH, config.input_size)).astype(np.float32)
    lengths = rng.integers(1, TIME + 1, BATCH).astype(np.int32)
    together = np.asarray(run(params, x, lengths))
    truth = OracleCall.of(params, x, None, lengths, config).run().outputs
    worst = np.abs(together - truth).max()
    for row in (0, BATCH // 2, BATCH - 1):
        alone = np.asarray(run(params, x[:, row : row + 1], lengths[row : row + 1]))[:, 0]
        for other in (together[:, row], truth[:, row]):
            worst = max(worst, np.abs(alone - other).max())
    return float(worst)


def layer(config: LSTMConfig, **options: Any) -> Any:
    return jax.jit(lambda params, x, n: lstm(params, x, config=config, seq_lengths=n, **options)[0])


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("path", ["auto", "scan"])
def test_batch_of_one_and_of_many(backend: str, config: str, path: str) -> None:
    assert largest_difference(CONFIGS[config], layer(CONFIGS[config], backend=path)) < ROUNDING
