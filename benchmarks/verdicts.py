"""Results instead of times: errors over the table of cases, and the checker's verdict on other libraries.

Errors are RMS errors to float64, as a multiple of torch's own error in the same dtype. In float64 torch is
the reference, and the row holds the largest absolute difference from it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from benchmarks.parts import Settings
from benchmarks.peers import load, version
from jaxlstm.check import Report, verify
from jaxlstm.layer.config import LSTMConfig
from testing.cases import FEW, FEWER, Case, Results, check, functional, pooled_error

CONFIG = LSTMConfig(16, 24, num_layers=2, bidirectional=True)
Port = Callable[..., Any]


def flax_nnx(inputs: Any, initial_state: Any, seq_lengths: Any, *, params: Any) -> Any:
    """The port of the benchmark's adapter; Flax is imported when it is called."""
    return load("flax-nnx").port(CONFIG)(inputs, initial_state, seq_lengths, params=params)


def flax_nnx_without_lengths(inputs: Any, initial_state: Any, *, params: Any) -> Any:
    """The same for batches without padding."""
    return flax_nnx(inputs, initial_state, None, params=params)


def lstm_ref(inputs: Any, initial_state: Any, seq_lengths: Any, *, params: Mapping[str, jax.Array]) -> Any:
    """The port of ``jax.experimental.rnn.lstm_ref``."""
    from jax.experimental import rnn

    if seq_lengths is None:
        seq_lengths = jnp.full(inputs.shape[1], len(inputs), jnp.int32)
    suffixes = ("_l0", "_l0_reverse", "_l1", "_l1_reverse")
    weights = (
        {slot: params[name + suffix] for slot, suffix in enumerate(suffixes)}
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    sizes = (CONFIG.input_size, CONFIG.hidden_size, CONFIG.num_layers)
    outputs, h_n, c_n = rnn.lstm_ref(
        inputs.swapaxes(0, 1), *initial_state, *weights, seq_lengths, *sizes, 0.0, True
    )
    return outputs.swapaxes(0, 1), (h_n, c_n)


# The name of a row, and the distribution and the port that it needs.
ROWS: dict[str, tuple[str, Port]] = {
    "flax.nnx.RNN, Bidirectional": ("flax", flax_nnx),
    "flax.nnx, no padding": ("flax", flax_nnx_without_lengths),
    "jax.experimental.rnn.lstm_ref": ("jax", lstm_ref),
}


def verdicts(settings: Settings) -> Iterator[dict[str, Any]]:
    """Check each library."""
    for name in list(ROWS)[:1] if settings.tiny else ROWS:
        yield {"case": name, "columns": columns(name, verdict_on(name))}


def verdict_on(name: str, **settings: Any) -> Report:
    """Verify a row's port with random weights; ``settings`` are keyword arguments of ``verify``."""
    return verify(jax.jit(ROWS[name][1]), None, CONFIG, **settings)


def columns(name: str, report: Report) -> dict[str, str | float]:
    """Return the columns of a row, all of them from the report."""
    items = {item.name: item for item in report.items}
    errors = {kind: items.get(f"RMS error of {kind}") for kind in ("results", "gradients")}
    measured = {f"RMS, {kind}": item.measured for kind, item in errors.items() if item and item.measured}
    return {
        "version": version(ROWS[name][0]) or "",
        "verdict": "holds" if report.ok else "does not hold",
        **{name: float(f"{value:.3g}") for name, value in measured.items()},
        "untested": ", ".join(item.name for item in report.items if item.ok is None),
        "diagnosis": report.diagnosis[0] if report.diagnosis else "",
    }


DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float64": np.float64}
KINDS = {"outputs and states": False, "gradients": True}


def accuracy(settings: Settings) -> Iterator[dict[str, Any]]:
    """Measure each dtype over 16 cases, which have every combination of any three settings."""
    cases = FEWER[:1] if settings.tiny else FEW
    for name, dtype in DTYPES.items():
        errors = np.array([_errors(case, dtype) for case in cases])
        columns = {}
        for kind, column in zip(KINDS, errors.T, strict=True):
            columns |= {f"{kind}, median": statistics.median(column), f"{kind}, worst": max(column)}
        what = "difference from torch, absolute" if dtype is np.float64 else "error / torch's"
        yield {"case": f"{name}, {what}", "columns": {k: float(f"{v:.2g}") for k, v in columns.items()}}


def _errors(case: Case, dtype: Any) -> list[float]:
    """Return the errors of values and of gradients."""
    result: list[float] = []

    def record(actual: Results, _: object, torch_own: Results, truth: Results) -> None:
        for gradients in KINDS.values():
            if dtype is np.float64:
                names = [name for name in truth if name.startswith("d ") == gradients]
                result.append(max(float(np.abs(actual[n] - truth[n]).max()) for n in names))
            else:
                ours, theirs = (pooled_error(r, truth, gradients) for r in (actual, torch_own))
                result.append(ours / theirs)

    check(case, dtype, functional(case), compare=record)
    return result
