"""The table of cases, real checkpoints and the checker on each backend; single sequences and batches.

A test has all values on a GPU or TPU, and a selection on the CPU. Tests of a backend without a device are
skipped.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
import torch

from jaxlstm import LSTMConfig, lstm
from jaxlstm.check import verify
from jaxlstm.check.reference.oracle import OracleCall
from jaxlstm.layer.precision import linear
from testing.cases import CASES, HALF, Case, check, functional, linen_module, nnx_module
from testing.real_files import BY_LABEL, EACH_LSTM, Real, assert_verdict_holds
from testing.verification import random_params

BACKENDS = ("cpu", "gpu", "tpu")
MARKS = {"cpu": [], "gpu": [pytest.mark.gpu], "tpu": [pytest.mark.tpu]}


@functools.cache
def absence(backend: str) -> str:
    """Return JAX's error message for an unavailable backend, or an empty string."""
    try:
        jax.devices(backend)
    except RuntimeError as error:
        return f"no {backend} here: {str(error).splitlines()[0]}"
    return ""


def on_each_backend(
    name: str = "",
    values: Collection[Any] = ("",),
    *,
    on_cpu: Iterable[Any] | None = None,
    backends: Iterable[str] = BACKENDS,
    ids: Callable[[Any], str] = str,
) -> pytest.MarkDecorator:
    """Parametrize by ``backend``, and by another argument if ``name`` is given.

    For an unavailable backend there is one skipped test, whose id says how many tests it stands for.

    Args:
      name: name of the other argument.
      values: values of the other argument.
      on_cpu: values on the CPU; all values if None.
      backends: backends that the test supports.
      ids: returns the test id of a value.
    """
    rows = []
    for backend in backends:
        chosen = [*(values if on_cpu is None or backend != "cpu" else on_cpu)]
        labels = [ids(value) for value in chosen]
        if absence(backend) and chosen:
            chosen, labels = chosen[:1], [f"{len(chosen)} tests"]
        for value, label in zip(chosen, labels, strict=True):
            row = (backend, value) if name else (backend,)
            rows.append(pytest.param(*row, marks=MARKS[backend], id=f"{backend}-{label}".strip("-")))
    arguments = ("backend", name) if name else ("backend",)
    return pytest.mark.parametrize(arguments, rows, indirect=["backend"])


def name_of(row: Any) -> str:
    """Return the test id of a tuple, from the names of its parts."""
    return "-".join(getattr(part, "__name__", str(part)) for part in row)


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run JAX on the first device of the backend during the test, and return the name of the backend."""
    name = request.param
    if reason := absence(name):
        pytest.skip(reason)
    with jax.default_device(jax.devices(name)[0]):
        yield name


DTYPES = (np.float64, np.float32, np.float16, ml_dtypes.bfloat16)
ROWS = list(itertools.product(CASES, DTYPES))
FEW = [(HALF[11], np.float64), (HALF[30], np.float32), (HALF[49], ml_dtypes.bfloat16)]


def require_float64(backend: str, dtype: Any) -> None:
    if backend == "tpu" and dtype == np.float64:
        pytest.skip("a TPU emulates float64 by two float32, with lower precision")


@on_each_backend("row", ROWS, on_cpu=FEW, ids=name_of)
def test_functional(backend: str, row: tuple[Case, Any]) -> None:
    case, dtype = row
    require_float64(backend, dtype)
    check(case, dtype, functional(case))


@on_each_backend("case", HALF, on_cpu=HALF[13:14])
@pytest.mark.parametrize("module", [nnx_module, linen_module], ids=["nnx", "linen"])
def test_modules(backend: str, case: Case, module: Any) -> None:
    check(case, np.float32, module(case))


@on_each_backend("row", list(itertools.product(CASES, DTYPES[:2])), backends=["gpu"], ids=name_of)
def test_against_torch_on_the_gpu(backend: str, row: tuple[Case, Any]) -> None:
    if not torch.cuda.is_available():
        pytest.skip(f"torch {torch.__version__} sees no CUDA device")
    case, dtype = row
    check(case, dtype, functional(case), torch_device="cuda")


@on_each_backend("case", HALF, on_cpu=HALF[13:14])
def test_detects_lower_precision(backend: str, case: Case) -> None:
    """Inputs and weights have the ten bits of TF32, as with JAX's default precision on a GPU."""
    right = functional(case)

    def rounded(array: jax.Array) -> jax.Array:
        return jax.lax.reduce_precision(array, exponent_bits=8, mantissa_bits=10)

    def in_tf32(params: Any, inputs: Any, *arguments: Any) -> Any:
        weights = {name: rounded(a) if a.ndim == 2 else a for name, a in params.items()}
        return right(weights, rounded(inputs), *arguments)

    with pytest.raises(AssertionError, match="RMS error"):
        check(case, np.float32, in_tf32)


SMALL_LSTM = [(BY_LABEL["silero-safetensors"], "lstm_cell.")]


def real_name(row: tuple[Real, str]) -> str:
    return f"{row[0].label}-{row[1]}"


@pytest.mark.network
@on_each_backend("row", EACH_LSTM, on_cpu=SMALL_LSTM, ids=real_name)
def test_the_verdict_holds(backend: str, row: tuple[Real, str]) -> None:
    assert_verdict_holds(*row)


@on_each_backend("precision", ["tensorfloat32", "bfloat16"], backends=["gpu", "tpu"])
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


@on_each_backend("config", list(CONFIGS))
@pytest.mark.parametrize("path", ["auto", "scan"])
def test_batch_of_one_and_of_many(backend: str, config: str, path: str) -> None:
    assert largest_difference(CONFIGS[config], layer(CONFIGS[config], backend=path)) < ROUNDING


@on_each_backend("rows", [1, 3, 256])
def test_highest_is_float32(backend: str, rows: int) -> None:
    """``linear`` has float32 accuracy, in the shapes of one step and of many."""
    rng = np.random.default_rng(rows)
    x = rng.standard_normal((rows, 256)).astype(np.float32)
    w = rng.standard_normal((512, 256)).astype(np.float32)
    product = np.asarray(jax.jit(lambda x, w: linear(x, w, precision="highest"))(x, w))
    true = x.astype(np.float64) @ w.astype(np.float64).T
    error = np.sqrt(np.mean((product - true) ** 2))
    # The sum has 256 terms of size 1. The error of TF32 is 50 times the tolerance.
    assert error < 16 * np.finfo(np.float32).eps * np.sqrt(256)
