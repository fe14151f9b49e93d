"""Other libraries' LSTMs through the checker: the same weights in each, and what it says of them.

    pip install '.[torch,peers]'
    python examples/peers.py

Parameters under torch's names are carried into each library, which gives a port: what one writes to check
code of one's own. The config has two layers in both directions, with biases, which shows more faults than one
layer can. Where a library has a wrapper for two directions it is that which runs; layers are stacked by
hand, as each of them but ``lstm_ref`` leaves it to its user. All but ``lstm_ref`` have one bias, the sum of
torch's two.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlstm.bench.peers import layers
from jaxlstm.check import Report, verify
from jaxlstm.config import LSTMConfig

CONFIG = LSTMConfig(16, 24, num_layers=2, bidirectional=True)
Params = Mapping[str, jax.Array]
Port = Callable[..., Any]


def port_of(library: str) -> Port:
    """The library's LSTM as a port: ``jaxlstm/bench/peers/`` has a file for each, which knows its layout."""

    def port(inputs: Any, initial_state: Any, seq_lengths: Any, *, params: Params) -> Any:
        direction = importlib.import_module(f"jaxlstm.bench.peers.{library}").DIRECTION
        lstm = layers.port(direction, CONFIG)
        return lstm(inputs, initial_state, seq_lengths, params=params)

    return port


def jax_lstm_ref(inputs: Any, initial_state: Any, seq_lengths: Any, *, params: Params) -> Any:
    from jax.experimental import rnn

    if seq_lengths is None:
        seq_lengths = jnp.full(inputs.shape[1], len(inputs), jnp.int32)
    suffixes = ("_l0", "_l0_reverse", "_l1", "_l1_reverse")
    weights = (
        {slot: params[name + suffix] for slot, suffix in enumerate(suffixes)}
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    outputs, h_n, c_n = rnn.lstm_ref(
        inputs.swapaxes(0, 1),
        *initial_state,
        *weights,
        seq_lengths,
        CONFIG.input_size,
        CONFIG.hidden_size,
        CONFIG.num_layers,
        CONFIG.dropout,
        CONFIG.bidirectional,
    )
    return outputs.swapaxes(0, 1), (h_n, c_n)


def without_lengths(port: Port) -> Port:
    """A port as it is used where nothing is padded; some libraries have no other."""

    def all_steps(inputs: Any, initial_state: Any, *, params: Params) -> Any:
        return port(inputs, initial_state, None, params=params)

    return all_steps


class Peer(NamedTuple):
    """A port, and the distribution that it needs."""

    name: str
    distribution: str
    port: Port


PEERS = (
    Peer("flax.nnx.RNN, Bidirectional", "flax", port_of("flax_nnx")),
    Peer("flax.nnx, nothing padded", "flax", without_lengths(port_of("flax_nnx"))),
    Peer("flax.linen.RNN, Bidirectional", "flax", port_of("flax_linen")),
    Peer("flax.linen, nothing padded", "flax", without_lengths(port_of("flax_linen"))),
    Peer("equinox.nn.LSTMCell", "equinox", without_lengths(port_of("equinox"))),
    Peer("haiku.LSTM", "dm-haiku", without_lengths(port_of("haiku"))),
    Peer("keras.layers.LSTM, Bidirectional, on JAX", "keras", port_of("keras")),
    Peer("jax.experimental.rnn.lstm_ref", "jax", jax_lstm_ref),
)


def version(peer: Peer) -> str | None:
    """The installed version; None if there is none."""
    try:
        return metadata.version(peer.distribution)
    except metadata.PackageNotFoundError:
        return None


def check(peer: Peer, **settings: Any) -> Report:
    """The verdict on a peer, with random weights; ``settings`` are those of ``verify``."""
    return verify(jax.jit(peer.port), None, CONFIG, **settings)


def row(peer: Peer, report: Report) -> tuple[str, ...]:
    """What the checker says, and nothing besides."""
    items = {item.name: item for item in report.items}
    ratios = (items.get(f"RMS error of {what}") for what in ("results", "gradients"))
    told = [f"{item.measured:.2f}" if item and item.measured else "" for item in ratios]
    untested = [item.name for item in report.items if item.ok is None]
    verdict = "holds" if report.ok else "does not hold"
    return (
        peer.name,
        version(peer) or "",
        verdict,
        *told,
        ", ".join(untested),
        report.diagnosis[0] if report.diagnosis else "",
    )


def lines() -> Iterator[str]:
    """The table, as markdown."""
    head = ("peer", "version", "verdict", "RMS, results", "RMS, gradients", "untested", "diagnosis")
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    for peer in PEERS:
        if version(peer) is None:
            yield f"| {peer.name} | not installed |" + " |" * (len(head) - 2)
        else:
            yield f"| {' | '.join(row(peer, check(peer)))} |"


if __name__ == "__main__":
    for line in lines():
        print(line, flush=True)
