"""The checker's verdict on other LSTMs in JAX: two layers in both directions, with the same weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.parts import Settings
from benchmarks.peers import load, version
from jaxlstm.check import Report, verify
from jaxlstm.layer.config import LSTMConfig

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


def run(settings: Settings) -> Iterator[dict[str, Any]]:
    """Check each library."""
    for name in list(ROWS)[:1] if settings.tiny else ROWS:
        yield {"case": name, "columns": columns(name, check(name))}


def check(name: str, **settings: Any) -> Report:
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
