"""The checker's verdict on other libraries' LSTMs.

Each library gets the same weights, for two layers in both directions with biases, and runs through the
adapters in `benchmarks.peers`. Two directions use the library's own wrapper if it has one. Layers are stacked
here, as every library but ``jax.experimental.rnn`` leaves that to the user.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.peers import layers, load, version
from benchmarks.settings import Settings
from jaxlstm.check import Report, verify
from jaxlstm.layer.config import LSTMConfig

CONFIG = LSTMConfig(16, 24, num_layers=2, bidirectional=True)
Port = Callable[..., Any]


def port_of(name: str) -> Port:
    """Return the port of a peer; the library is imported when the port is called."""

    def port(inputs: Any, initial_state: Any, seq_lengths: Any, *, params: Any) -> Any:
        lstm = layers.port(load(name).DIRECTION, CONFIG)
        return lstm(inputs, initial_state, seq_lengths, params=params)

    return port


def without_lengths(port: Port) -> Port:
    """Return the port for batches without padding, the only ones that some libraries support."""

    def all_steps(inputs: Any, initial_state: Any, *, params: Any) -> Any:
        return port(inputs, initial_state, None, params=params)

    return all_steps


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


class Row(NamedTuple):
    """A row of the table: its name, the distribution that it needs, and the port."""

    name: str
    distribution: str
    port: Port


ROWS = (
    Row("flax.nnx.RNN, Bidirectional", "flax", port_of("flax-nnx")),
    Row("flax.nnx, no padding", "flax", without_lengths(port_of("flax-nnx"))),
    Row("flax.linen.RNN, Bidirectional", "flax", port_of("flax-linen")),
    Row("flax.linen, no padding", "flax", without_lengths(port_of("flax-linen"))),
    Row("equinox.nn.LSTMCell", "equinox", without_lengths(port_of("equinox"))),
    Row("haiku.LSTM", "dm-haiku", without_lengths(port_of("haiku"))),
    Row("keras.layers.LSTM, Bidirectional, on JAX", "keras", port_of("keras")),
    Row("jax.experimental.rnn.lstm_ref", "jax", lstm_ref),
)


def run(settings: Settings) -> Iterator[dict[str, Any]]:
    """Check each library that is installed."""
    for row in ROWS[:1] if settings.tiny else ROWS:
        if version(row.distribution) is None:
            yield {"case": row.name, "columns": {"version": "not installed"}}
        else:
            yield {"case": row.name, "columns": columns(row, check(row))}


def check(row: Row, **settings: Any) -> Report:
    """Verify a row's port with random weights; ``settings`` are keyword arguments of ``verify``."""
    return verify(jax.jit(row.port), None, CONFIG, **settings)


def columns(row: Row, report: Report) -> dict[str, str | float]:
    """Return the columns of a row, all of them from the report."""
    items = {item.name: item for item in report.items}
    errors = {kind: items.get(f"RMS error of {kind}") for kind in ("results", "gradients")}
    measured = {f"RMS, {kind}": item.measured for kind, item in errors.items() if item and item.measured}
    return {
        "version": version(row.distribution) or "",
        "verdict": "holds" if report.ok else "does not hold",
        **{name: float(f"{value:.3g}") for name, value in measured.items()},
        "untested": ", ".join(item.name for item in report.items if item.ok is None),
        "diagnosis": report.diagnosis[0] if report.diagnosis else "",
    }
