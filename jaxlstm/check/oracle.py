r"""The oracle: an LSTM in float64 NumPy, from the equations, with its derivative by hand.

It shares no code with the layer, so that one mistake cannot be on both sides. Where the layer masks a
ragged batch, the oracle lets a sequence that has ended drop out of the batch: at its own step s = 0, 1,
... a sequence of length n reads time t = s running forwards and t = n - 1 - s running backwards.

.. math::
    z = W_{ih} x_t + b_{ih} + W_{hh} h + b_{hh}, \quad
    (i, f, g, o) = (\sigma z_i, \sigma z_f, \tanh z_g, \sigma z_o), \quad
    c' = f c + i g, \quad h' = W_{hr} (o \tanh c')

with W_hr only in a projected LSTM. Every array is time-major; gates are in the order i, f, g, o; states
are stacked layer by layer, forward before reverse. Source: the documentation of ``torch.nn.LSTM``.

The parts that a port can get wrong are fields of :class:`Equations`, so that a fault is the oracle with
one part exchanged (:mod:`jaxlstm.check.faults`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jaxlstm.config import LSTMCellConfig, LSTMConfig

Array = np.ndarray
Weights = dict[str, Array]
State = tuple[Array, Array]


class Step(NamedTuple):
    """One time step: gates i, f, g, o and the new c (batch, H); the new h (batch, h_size)."""

    i: Array
    f: Array
    g: Array
    o: Array
    c: Array
    h: Array


class Direction(NamedTuple):
    """What one direction of one layer did, by the time t of its input; zero behind each sequence's end.

    ``inputs`` (time, batch, features); ``h_prev`` and ``c_prev``, the state each step started from; and
    ``steps``, a :class:`Step` of arrays (time, batch, features).
    """

    inputs: Array
    h_prev: Array
    c_prev: Array
    steps: Step
    h_n: Array
    c_n: Array


class Result(NamedTuple):
    """Outputs (time, batch, D*h_size), h_n (L*D, batch, h_size), c_n (L*D, batch, H), and the record.

    ``record[layer][direction]`` is a :class:`Direction`.
    """

    outputs: Array
    h_n: Array
    c_n: Array
    record: tuple[tuple[Direction, ...], ...]


class Gradients(NamedTuple):
    """Gradients by the name of the parameter, and of the inputs, h_0 and c_0."""

    params: Weights
    inputs: Array
    h_0: Array
    c_0: Array


def sigmoid(z: Array) -> Array:
    """1 / (1 + exp(-z)) without overflow, to the last digit or two at both ends."""
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, 1, e) / (1 + e)


def product(x: Array, weight: Array) -> Array:
    """``x @ weight.T``: (batch, in), (out, in) -> (batch, out)."""
    return x @ weight.T


def cell(eq: Equations, w: Weights, x: Array, h: Array, c: Array) -> Step:
    """One time step of a batch: x (batch, in), h (batch, h_size), c (batch, H)."""
    z = eq.product(x, w["weight_ih"]) + eq.product(h, w["weight_hh"])
    if "bias_ih" in w:
        z = z + w["bias_ih"] + w["bias_hh"]
    i, f, g, o = np.split(z, 4, axis=-1)
    i, f, g, o = eq.sigmoid(i), eq.sigmoid(f), eq.tanh(g), eq.sigmoid(o)
    c = f * c + i * g
    h = o * eq.tanh(c)
    if "weight_hr" in w:
        h = eq.product(h, w["weight_hr"])
    return Step(i, f, g, o, c, h)


def direction(
    eq: Equations, w: Weights, x: Array, h: Array, c: Array, lengths: Array, reverse: bool
) -> Direction:
    """One direction over time: x (time, batch, in), from the state h, c."""
    h_now, c_now = h.copy(), c.copy()
    h_prev, c_prev = (np.zeros((*x.shape[:2], a.shape[1]), a.dtype) for a in (h, c))
    i, f, g, o, c_next = (np.zeros_like(c_prev) for _ in range(5))
    steps = Step(i, f, g, o, c_next, np.zeros_like(h_prev))
    for s in range(lengths.max(initial=0)):
        rows = np.flatnonzero(lengths > s)
        t = lengths[rows] - 1 - s if reverse else np.full(len(rows), s)
        h_prev[t, rows], c_prev[t, rows] = h_now[rows], c_now[rows]
        step = eq.cell(eq, w, x[t, rows], h_now[rows], c_now[rows])
        h_now[rows], c_now[rows] = step.h, step.c
        for whole, new in zip(steps, step, strict=True):
            whole[t, rows] = new
    return Direction(x, h_prev, c_prev, steps, h_now, c_now)


def join(outputs: Sequence[Array]) -> Array:
    """A layer's output from those of its directions: side by side, forward first."""
    return np.concatenate(outputs, axis=-1)


@dataclass(frozen=True)
class Equations:
    """The parts of an LSTM, each exchangeable by a fault."""

    sigmoid: Callable[[Array], Array] = sigmoid
    tanh: Callable[[Array], Array] = np.tanh
    product: Callable[[Array, Array], Array] = product
    cell: Callable[..., Step] = cell
    direction: Callable[..., Direction] = direction
    join: Callable[[Sequence[Array]], Array] = join


TRUE = Equations()


def weights_of(params: Mapping[str, Any], config: LSTMConfig, layer: int, reverse: bool) -> Weights:
    """The weights of one direction of one layer, without torch's suffix."""
    names = ["weight_ih", "weight_hh"]
    names += ["bias_ih", "bias_hh"] if config.bias else []
    names += ["weight_hr"] if config.proj_size else []
    return {name: params[name + _suffix(config, layer, reverse)] for name in names}


def forward(
    params: Mapping[str, Any],
    inputs: Any,
    initial_state: tuple[Any, Any] | None,
    seq_lengths: Any,
    config: LSTMConfig,
    *,
    dtype: Any = np.float64,
    equations: Equations = TRUE,
) -> Result:
    """Run the LSTM.

    Args:
      params: arrays under torch's names.
      inputs: (time, batch, input_size), whatever ``config.batch_first`` says.
      initial_state: (h_0, c_0), or None for zeros.
      seq_lengths: ints (batch,), or None if every step is valid.
      config: the LSTM; its dropout is not applied.
      dtype: in which to compute.
      equations: what to compute.
    """
    params = {name: np.asarray(value).astype(dtype) for name, value in params.items()}
    x = np.asarray(inputs).astype(dtype)
    h_0, c_0 = _state(initial_state, config, x.shape[1], dtype)
    lengths = _lengths(seq_lengths, x)
    record = []
    for layer in range(config.num_layers):
        runs = []
        for reverse in range(config.num_directions):
            slot = layer * config.num_directions + reverse
            w = weights_of(params, config, layer, bool(reverse))
            run = equations.direction(
                equations, w, x, h_0[slot], c_0[slot], lengths, reverse=bool(reverse)
            )
            runs.append(run)
        x = equations.join([run.steps.h for run in runs])
        record.append(tuple(runs))
    h_n = np.stack([run.h_n for runs in record for run in runs])
    c_n = np.stack([run.c_n for runs in record for run in runs])
    return Result(x, h_n, c_n, tuple(record))


def backward(
    params: Mapping[str, Any],
    result: Result,
    seq_lengths: Any,
    config: LSTMConfig,
    cotangents: tuple[Any, Any, Any],
) -> Gradients:
    """Gradients of <cotangents, (outputs, h_n, c_n)> by backpropagation through time.

    Args:
      params: as in :func:`forward`.
      result: what :func:`forward` gave, with the true equations.
      seq_lengths: as in :func:`forward`.
      config: the LSTM.
      cotangents: arrays of the shapes of outputs, h_n and c_n; those behind a sequence's end do nothing.
    """
    dtype = result.outputs.dtype
    params = {name: np.asarray(value).astype(dtype) for name, value in params.items()}
    d_out, d_h, d_c = (np.asarray(a).astype(dtype) for a in cotangents)
    d_h_0, d_c_0 = np.zeros_like(d_h), np.zeros_like(d_c)
    lengths = _lengths(seq_lengths, result.outputs)
    gradients: Weights = {}
    for layer in reversed(range(config.num_layers)):
        d_inputs = np.zeros_like(result.record[layer][0].inputs)
        for reverse, run in enumerate(result.record[layer]):
            slot = layer * config.num_directions + reverse
            w = weights_of(params, config, layer, bool(reverse))
            part = slice(reverse * config.h_size, (reverse + 1) * config.h_size)
            d_w, d_x, d_h_0[slot], d_c_0[slot] = _direction_backward(
                w, run, d_out[..., part], d_h[slot], d_c[slot], lengths, bool(reverse)
            )
            d_inputs += d_x  # both directions read the same input
            end = _suffix(config, layer, bool(reverse))
            gradients |= {name + end: value for name, value in d_w.items()}
        d_out = d_inputs
    ordered = {name: gradients[name] for name in params}
    return Gradients(ordered, d_out, d_h_0, d_c_0)


def _direction_backward(
    w: Weights, run: Direction, d_out: Array, d_h: Array, d_c: Array, lengths: Array, reverse: bool
) -> tuple[Weights, Array, Array, Array]:
    """Gradients of one direction's weights, inputs and initial state."""
    d_w = {name: np.zeros_like(value) for name, value in w.items()}
    d_x, d_h, d_c = np.zeros_like(run.inputs), d_h.copy(), d_c.copy()
    for s in reversed(range(lengths.max(initial=0))):
        rows = np.flatnonzero(lengths > s)
        t = lengths[rows] - 1 - s if reverse else np.full(len(rows), s)
        x, h_prev, c_prev = (a[t, rows] for a in (run.inputs, run.h_prev, run.c_prev))
        i, f, g, o, c, _ = (a[t, rows] for a in run.steps)
        tanh_c = np.tanh(c)
        d_m = d_out[t, rows] + d_h[rows]
        if "weight_hr" in w:
            d_w["weight_hr"] += d_m.T @ (o * tanh_c)
            d_m = d_m @ w["weight_hr"]
        d_cell = d_c[rows] + d_m * o * (1 - tanh_c**2)
        d_z = np.concatenate(
            [
                d_cell * g * i * (1 - i),
                d_cell * c_prev * f * (1 - f),
                d_cell * i * (1 - g**2),
                d_m * tanh_c * o * (1 - o),
            ],
            axis=-1,
        )
        d_w["weight_ih"] += d_z.T @ x
        d_w["weight_hh"] += d_z.T @ h_prev
        for name in {"bias_ih", "bias_hh"} & d_w.keys():
            d_w[name] += d_z.sum(0)
        d_x[t, rows] = d_z @ w["weight_ih"]
        d_h[rows], d_c[rows] = d_z @ w["weight_hh"], d_cell * f
    return d_w, d_x, d_h, d_c


def _suffix(config: LSTMConfig, layer: int, reverse: bool) -> str:
    if isinstance(config, LSTMCellConfig):
        return ""
    return f"_l{layer}_reverse" if reverse else f"_l{layer}"


def _state(state: tuple[Any, Any] | None, config: LSTMConfig, batch: int, dtype: Any) -> State:
    if state is None:
        slots = config.num_layers * config.num_directions
        sizes = (config.proj_size or config.hidden_size, config.hidden_size)
        return tuple(np.zeros((slots, batch, size), dtype) for size in sizes)  # type: ignore[return-value]
    h_0, c_0 = (np.asarray(a).astype(dtype) for a in state)
    return h_0, c_0


def _lengths(seq_lengths: Any, x: Array) -> Array:
    if seq_lengths is None:
        return np.full(x.shape[1], x.shape[0])
    return np.asarray(seq_lengths).astype(np.int64)
