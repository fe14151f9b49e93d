"""Other libraries' LSTMs through the checker: the same weights in each, and what it says of them.

    pip install '.[torch,peers]'
    python examples/peers.py

Each function below carries parameters under torch's names into one library and gives a port: what one writes
to check code of one's own. The config is what all of them offer: one layer, one direction, with biases. All
but ``lstm_ref`` have one bias, the sum of torch's two.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlstm.check import Report, verify
from jaxlstm.config import LSTMConfig

CONFIG = LSTMConfig(16, 24)
STACK = LSTMConfig(16, 24, num_layers=2, bidirectional=True)
Params = Mapping[str, jax.Array]
Port = Callable[..., Any]


def bias(params: Params) -> jax.Array:
    return params["bias_ih_l0"] + params["bias_hh_l0"]


def flax_nnx(inputs: Any, initial_state: Any, seq_lengths: Any, *, params: Params) -> Any:
    from flax import nnx

    cell = nnx.OptimizedLSTMCell(
        CONFIG.input_size, CONFIG.hidden_size, param_dtype=inputs.dtype, rngs=nnx.Rngs(0)
    )
    cell.dense_i.kernel = nnx.Param(params["weight_ih_l0"].T)
    cell.dense_h.kernel = nnx.Param(params["weight_hh_l0"].T)
    cell.dense_h.bias = nnx.Param(bias(params))
    rnn = nnx.RNN(cell, time_major=True, return_carry=True)
    (h_0,), (c_0,) = initial_state
    (c, h), outputs = rnn(inputs, initial_carry=(c_0, h_0), seq_lengths=seq_lengths)
    return outputs, (h[None], c[None])


def flax_linen(inputs: Any, initial_state: Any, seq_lengths: Any, *, params: Params) -> Any:
    from flax import linen

    weights: dict[str, Any] = {}
    for gate, w_i, w_h, b in zip(
        "ifgo",
        *(jnp.split(a, 4) for a in (params["weight_ih_l0"], params["weight_hh_l0"], bias(params))),
        strict=True,
    ):
        weights |= {f"i{gate}": {"kernel": w_i.T}, f"h{gate}": {"kernel": w_h.T, "bias": b}}
    rnn = linen.RNN(linen.OptimizedLSTMCell(CONFIG.hidden_size), time_major=True, return_carry=True)
    (h_0,), (c_0,) = initial_state
    (c, h), outputs = rnn.apply(
        {"params": {"cell": weights}}, inputs, initial_carry=(c_0, h_0), seq_lengths=seq_lengths
    )
    return outputs, (h[None], c[None])


def equinox(inputs: Any, initial_state: Any, *, params: Params) -> Any:
    import equinox as eqx

    cell = eqx.nn.LSTMCell(
        CONFIG.input_size, CONFIG.hidden_size, dtype=inputs.dtype, key=jax.random.key(0)
    )
    cell = eqx.tree_at(
        lambda cell: (cell.weight_ih, cell.weight_hh, cell.bias),
        cell,
        (params["weight_ih_l0"], params["weight_hh_l0"], bias(params)),
    )

    def step(state: Any, x: Any) -> Any:
        h, c = jax.vmap(cell)(x, state)
        return (h, c), h

    (h_0,), (c_0,) = initial_state
    (h, c), outputs = jax.lax.scan(step, (h_0, c_0), inputs)
    return outputs, (h[None], c[None])


def haiku(inputs: Any, initial_state: Any, *, params: Params) -> Any:
    import haiku as hk

    def rows_of_haiku(a: jax.Array) -> jax.Array:
        i, f, g, o = jnp.split(a, 4)
        return jnp.concatenate([i, g, f, o])

    forget_bias = jnp.repeat(jnp.asarray([0, 0, 1, 0], inputs.dtype), CONFIG.hidden_size)
    kernel = jnp.concatenate([params["weight_ih_l0"], params["weight_hh_l0"]], axis=1)
    weights = {"w": rows_of_haiku(kernel).T, "b": rows_of_haiku(bias(params)) - forget_bias}

    def run(x: Any, h: Any, c: Any) -> Any:
        return hk.dynamic_unroll(hk.LSTM(CONFIG.hidden_size), x, hk.LSTMState(h, c))

    (h_0,), (c_0,) = initial_state
    apply = hk.without_apply_rng(hk.transform(run)).apply
    outputs, (h, c) = apply({"lstm/linear": weights}, inputs, h_0, c_0)
    return outputs, (h[None], c[None])


def keras(inputs: Any, initial_state: Any, seq_lengths: Any, *, params: Params) -> Any:
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    layer = keras.layers.LSTM(
        CONFIG.hidden_size,
        return_sequences=True,
        return_state=True,
        zero_output_for_mask=True,  # else a step of padding repeats the output before it
        dtype=str(inputs.dtype),
    )
    layer.build((None, *inputs.shape[::2]))
    weights = [params["weight_ih_l0"].T, params["weight_hh_l0"].T, bias(params)]
    others = [variable.value for variable in layer.non_trainable_variables]
    mask = None if seq_lengths is None else jnp.arange(len(inputs)) < seq_lengths[:, None]
    answer: Any = layer.stateless_call(
        weights,
        others,
        inputs.swapaxes(0, 1),
        initial_state=[array[0] for array in initial_state],
        mask=mask,
    )
    (outputs, h, c), _ = answer
    return outputs.swapaxes(0, 1), (h[None], c[None])


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
        STACK.input_size,
        STACK.hidden_size,
        STACK.num_layers,
        STACK.dropout,
        STACK.bidirectional,
    )
    return outputs.swapaxes(0, 1), (h_n, c_n)


def without_lengths(port: Port) -> Port:
    """A port as it is used where nothing is padded."""

    def all_steps(inputs: Any, initial_state: Any, *, params: Params) -> Any:
        return port(inputs, initial_state, None, params=params)

    return all_steps


class Peer(NamedTuple):
    """A port, the distribution that it needs, and the config that it stands for."""

    name: str
    distribution: str
    port: Port
    config: LSTMConfig = CONFIG


PEERS = (
    Peer("flax.nnx.RNN", "flax", flax_nnx),
    Peer("flax.nnx.RNN, nothing padded", "flax", without_lengths(flax_nnx)),
    Peer("flax.linen.RNN", "flax", flax_linen),
    Peer("flax.linen.RNN, nothing padded", "flax", without_lengths(flax_linen)),
    Peer("equinox.nn.LSTMCell", "equinox", equinox),
    Peer("haiku.LSTM", "dm-haiku", haiku),
    Peer("keras.layers.LSTM on JAX", "keras", keras),
    Peer("jax.experimental.rnn.lstm_ref, 2 layers, bidirectional", "jax", jax_lstm_ref, STACK),
)


def version(peer: Peer) -> str | None:
    """The installed version; None if there is none."""
    try:
        return metadata.version(peer.distribution)
    except metadata.PackageNotFoundError:
        return None


def check(peer: Peer, **settings: Any) -> Report:
    """The verdict on a peer, with random weights; ``settings`` are those of ``verify``."""
    return verify(jax.jit(peer.port), None, peer.config, **settings)


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
