r"""The oracle: a float64 LSTM in NumPy, written from the equations.

The oracle shares no code with the layer under test, so one mistake cannot appear on both sides. The layer
masks a ragged batch; the oracle instead drops a sequence from the batch once it has ended. At step
s = 0, 1, ..., a sequence of length n reads time t = s in the forward direction and t = n - 1 - s in the
reverse direction.

.. math::
    z = W_{ih} x_t + b_{ih} + W_{hh} h + b_{hh}, \quad
    (i, f, g, o) = (\sigma z_i, \sigma z_f, \tanh z_g, \sigma z_o), \quad
    c' = f c + i g, \quad h' = W_{hr} (o \tanh c')

Only a projected LSTM has W_hr. Arrays are time-major, gates are in the order i, f, g, o, and states are
stacked layer by layer with the forward direction first. Source: the documentation of ``torch.nn.LSTM``.

Each part that a port can get wrong is a field of :class:`Equations`. A fault replaces one of these parts
(:mod:`jaxlstm.check.reference.faults`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jaxlstm.layer.config import LSTMCellConfig, LSTMConfig

Array = np.ndarray
Weights = dict[str, Array]


class Step(NamedTuple):
    """The gates and the new state of one time step.

    ``i``, ``f``, ``g``, ``o`` and ``c`` have shape (batch, H); ``h`` has shape (batch, h_size).
    """

    i: Array
    f: Array
    g: Array
    o: Array
    c: Array
    h: Array


class DirectionRun(NamedTuple):
    """The record of one direction of one layer, indexed by the time of its input.

    ``h_prev`` and ``c_prev`` are the state before each step. Like ``steps``, they have shape
    (time, batch, units) and are zero in the padding.
    """

    inputs: Array
    h_prev: Array
    c_prev: Array
    steps: Step
    h_n: Array
    c_n: Array


class OracleRun(NamedTuple):
    """The results of a forward pass, and ``record[layer][direction]`` of every step."""

    outputs: Array
    h_n: Array
    c_n: Array
    record: tuple[tuple[DirectionRun, ...], ...]

    @property
    def results(self) -> dict[str, Array]:
        """The results by name."""
        return {"outputs": self.outputs, "h_n": self.h_n, "c_n": self.c_n}


def sigmoid(z: Array) -> Array:
    """Return 1 / (1 + exp(-z)), without overflow and accurate in both tails."""
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, 1, e) / (1 + e)


def cell(eq: Equations, w: Weights, x: Array, h: Array, c: Array) -> Step:
    """Compute one time step of a batch from x (batch, in), h (batch, h_size) and c (batch, H)."""
    z = eq.product(x, w["weight_ih"]) + eq.product(h, w["weight_hh"])
    if "bias_ih" in w:
        z = z + w["bias_ih"] + w["bias_hh"]
    i, f, g, o = z.reshape(len(z), 4, z.shape[-1] // 4).swapaxes(0, 1)
    (i, f, o), g = eq.sigmoid(np.stack([i, f, o])), eq.candidate(eq, g)
    c_next = f * c + i * g
    h = o * eq.squashed(eq, c_next)
    if "weight_hr" in w:
        h = eq.projection(eq, h, w["weight_hr"])
    return Step(i, f, g, o, c_next, h)


def direction(
    eq: Equations, w: Weights, x: Array, h: Array, c: Array, lengths: Array, reverse: bool
) -> DirectionRun:
    """Run one direction over x (time, batch, in), starting from the state h, c."""
    h_now, c_now = h.copy(), c.copy()
    h_prev, c_prev = (np.zeros((*x.shape[:2], a.shape[1]), a.dtype) for a in (h, c))
    i, f, g, o, c_next = (np.zeros_like(c_prev) for _ in range(5))
    steps = Step(i, f, g, o, c_next, np.zeros_like(h_prev))
    for t, rows in running(lengths, reverse):
        h_prev[t, rows], c_prev[t, rows] = h_now[rows], c_now[rows]
        step = eq.cell(eq, w, x[t, rows], h_prev[t, rows], c_prev[t, rows])
        h_now[rows], c_now[rows] = step.h, step.c
        for whole, new in zip(steps, step, strict=True):
            whole[t, rows] = new
    return DirectionRun(x, h_prev, c_prev, steps, h_now, c_now)


def running(lengths: Array, reverse: bool) -> list[tuple[Any, Any]]:
    """Return, for each step, the rows that have not ended and the time that each of them reads.

    If all lengths are equal, these are a slice and one number, which give views.
    """
    if len(lengths) and lengths.min() == lengths.max():
        times = [(t, slice(None)) for t in range(lengths[0])]
        return times[::-1] if reverse else times
    steps: list[tuple[Any, Any]] = []
    for s in range(lengths.max(initial=0)):
        rows = np.flatnonzero(lengths > s)
        steps.append((lengths[rows] - 1 - s if reverse else np.full(len(rows), s), rows))
    return steps


@dataclass(frozen=True)
class Equations:
    """The parts of an LSTM that a fault can replace.

    ``join`` takes the forward direction first. ``finish`` returns the results of a run that a port returns.
    """

    sigmoid: Callable[[Array], Array] = sigmoid
    tanh: Callable[[Array], Array] = np.tanh
    product: Callable[[Array, Array], Array] = lambda x, weight: x @ weight.T
    candidate: Callable[[Equations, Array], Array] = lambda eq, z: eq.tanh(z)
    squashed: Callable[[Equations, Array], Array] = lambda eq, c: eq.tanh(c)
    projection: Callable[[Equations, Array, Array], Array] = lambda eq, h, weight: eq.product(h, weight)
    cell: Callable[..., Step] = cell
    direction: Callable[..., DirectionRun] = direction
    join: Callable[[Sequence[Array]], Array] = lambda outputs: np.concatenate(outputs, axis=-1)
    finish: Callable[[OracleRun, OracleCall], OracleRun] = lambda run, call: run


CORRECT = Equations()


@dataclass(frozen=True)
class OracleCall:
    """The arguments of the oracle, and its equations."""

    params: Mapping[str, Array]
    inputs: Array
    state: tuple[Array, Array]
    lengths: Array
    config: LSTMConfig
    equations: Equations = CORRECT

    @classmethod
    def of(
        cls,
        params: Mapping[str, Any],
        inputs: Any,
        initial_state: tuple[Any, Any] | None,
        seq_lengths: Any,
        config: LSTMConfig,
        *,
        dtype: Any = np.float64,
        equations: Equations = CORRECT,
    ) -> OracleCall:
        """Return the call in ``dtype``, without dropout and with the time-major arrays of a case."""
        params = {name: np.asarray(value).astype(dtype) for name, value in params.items()}
        x = np.asarray(inputs).astype(dtype)
        state = map(np.zeros, config.state_shapes(x.shape[1])) if initial_state is None else initial_state
        h_0, c_0 = (np.asarray(a).astype(dtype) for a in state)
        lengths = np.full(x.shape[1], x.shape[0]) if seq_lengths is None else seq_lengths
        return cls(params, x, (h_0, c_0), np.asarray(lengths).astype(np.int64), config, equations)

    @np.errstate(all="ignore")  # Cases contain NaN and infinity, and exp may underflow.
    def run(self) -> OracleRun:
        """Run the LSTM, without ``finish``."""
        config, x, record = self.config, self.inputs, []
        for layer in range(config.num_layers):
            runs = []
            for reverse in range(config.num_directions):
                h, c = (a[layer * config.num_directions + reverse] for a in self.state)
                w = weights_of(self.params, config, layer, bool(reverse))
                runs.append(self.equations.direction(self.equations, w, x, h, c, self.lengths, bool(reverse)))
            x = self.equations.join([run.steps.h for run in runs])
            record.append(tuple(runs))
        h_n = np.stack([run.h_n for runs in record for run in runs])
        c_n = np.stack([run.c_n for runs in record for run in runs])
        return OracleRun(x, h_n, c_n, tuple(record))

    def finished(self, run: OracleRun) -> OracleRun:
        """Return a run with ``finish`` applied to its results."""
        return self.equations.finish(run, self)


def weights_of(params: Mapping[str, Any], config: LSTMConfig, layer: int, reverse: bool) -> Weights:
    """Return the weights of one direction of one layer under names without torch's suffix."""
    names = ["weight_ih", "weight_hh"]
    names += ["bias_ih", "bias_hh"] if config.bias else []
    names += ["weight_hr"] if config.proj_size else []
    return {name: params[name + suffix(config, layer, reverse)] for name in names}


def suffix(config: LSTMConfig, layer: int, reverse: bool) -> str:
    """Return torch's suffix of the parameters of one direction of one layer."""
    if isinstance(config, LSTMCellConfig):
        return ""
    return f"_l{layer}_reverse" if reverse else f"_l{layer}"
