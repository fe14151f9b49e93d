"""Inputs that can show faults: an input decides more than a tolerance.

Of 30 wrong ports, a single layer from a zero state shows 14. So the state here is never zero and h_0 is
not like c_0; lengths are ragged, unsorted, and the padding behind them holds numbers; the batch is 1 and
more; time is 1, some and long; magnitudes saturate the gates or nearly vanish; and one row is NaN or
infinite while the others must stay clean. All of it follows from the config and a seed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jaxlstm.config import LSTMConfig

Array = np.ndarray

RAGGED_TIME = 12
LONG_TIME = 100


@dataclass(frozen=True)
class Case:
    """One call of an LSTM, and the linear functional of its results whose gradients are compared.

    Attributes:
      name: what the case is for.
      inputs: (time, batch, input_size).
      initial_state: (h_0, c_0), of shapes (L*D, batch, h_size) and (L*D, batch, H), or None for zeros.
      seq_lengths: int32 (batch,), or None if every step is valid.
      cotangents: arrays of the shapes of outputs, h_n and c_n.
      differentiate: whether gradients are compared too.
    """

    name: str
    inputs: Array
    initial_state: tuple[Array, Array] | None
    seq_lengths: Array | None
    cotangents: tuple[Array, Array, Array]
    differentiate: bool = True

    def astype(self, dtype: Any) -> Case:
        """The case with every number rounded to ``dtype``."""
        state = self.initial_state
        return replace(
            self,
            inputs=self.inputs.astype(dtype),
            initial_state=None
            if state is None
            else (state[0].astype(dtype), state[1].astype(dtype)),
            cotangents=tuple(a.astype(dtype) for a in self.cotangents),
        )

    def without(self, *, state: bool = False, lengths: bool = False) -> Case:
        """The case from a zero state, or with every step valid."""
        return replace(
            self,
            initial_state=None if state else self.initial_state,
            seq_lengths=None if lengths else self.seq_lengths,
        )

    @property
    def valid(self) -> Array:
        """Bool (time, batch): whether a step lies inside its sequence."""
        time, batch = self.inputs.shape[:2]
        lengths = np.full(batch, time) if self.seq_lengths is None else self.seq_lengths
        return np.arange(time)[:, None] < lengths[None, :]


def make_case(
    name: str,
    config: LSTMConfig,
    rng: np.random.Generator,
    *,
    time: int,
    batch: int,
    ragged: bool = False,
    scale: float = 1.0,
    differentiate: bool = True,
) -> Case:
    """A random case: normal inputs of standard deviation ``scale``, non-zero and different h_0 and c_0.

    With ``ragged``, lengths are drawn from 1 to ``time``, with both among them, and are not sorted.
    """
    h_shape, c_shape = config.state_shapes(batch)
    return Case(
        name,
        inputs=scale * rng.standard_normal((time, batch, config.input_size)),
        initial_state=(
            scale * rng.uniform(-1, 1, h_shape),
            scale * (0.5 + rng.standard_normal(c_shape)),
        ),
        seq_lengths=_ragged_lengths(rng, time, batch) if ragged else None,
        cotangents=(
            rng.standard_normal((time, batch, config.output_size)),
            rng.standard_normal(h_shape),
            rng.standard_normal(c_shape),
        ),
        differentiate=differentiate,
    )


def ordinary_case(config: LSTMConfig, seed: int = 0) -> Case:
    """The one case that shows most faults: ragged, several rows, ordinary magnitudes."""
    rng = np.random.default_rng([seed, 0])
    return make_case("ragged", config, rng, time=RAGGED_TIME, batch=5, ragged=True)


def cases(config: LSTMConfig, seed: int = 0) -> tuple[Case, ...]:
    """Every case, from the config and a seed.

    Those that share a shape are compiled once by a port that compiles; gradients, which take several
    compilations, are asked for at two shapes. The dense case is square, so that a port which swaps batch
    and time answers it.
    """

    def rng(number: int) -> np.random.Generator:
        return np.random.default_rng([seed, number])

    shape: dict[str, Any] = {"time": RAGGED_TIME, "batch": 5, "ragged": True}
    return (
        ordinary_case(config, seed),
        make_case("saturating", config, rng(1), scale=8.0, **shape),
        make_case("tiny", config, rng(2), scale=1e-4, **shape),
        nan_case(config, rng(3)),
        make_case("dense", config, rng(4), time=6, batch=6),
        make_case("batch 1", config, rng(5), time=7, batch=1, differentiate=False),
        make_case("one step", config, rng(6), time=1, batch=3, differentiate=False),
        _from_zeros(make_case("one step from zeros", config, rng(8), time=1, batch=3)),
        make_case("long", config, rng(7), time=LONG_TIME, batch=2, differentiate=False),
    )


def _from_zeros(case: Case) -> Case:
    """The case from a state of zeros, where a fault of the initial state cannot hide another."""
    assert case.initial_state is not None
    h_0, c_0 = case.initial_state
    zeros = (np.zeros_like(h_0), np.zeros_like(c_0))
    return replace(case, initial_state=zeros, differentiate=False)


def nan_case(config: LSTMConfig, rng: np.random.Generator) -> Case:
    """NaN in one row, infinity in another, NaN in the padding of a third: the rest must stay clean."""
    case = make_case("NaN and Inf", config, rng, time=RAGGED_TIME, batch=5, ragged=True)
    assert case.seq_lengths is not None
    inputs = case.inputs.copy()
    longest, second, *_, shortest = np.argsort(-case.seq_lengths, kind="stable")
    inputs[case.seq_lengths[longest] // 2, longest, 0] = np.nan
    inputs[0, second, -1] = np.inf
    inputs[case.seq_lengths[shortest] :, shortest] = np.nan
    return replace(case, inputs=inputs, differentiate=False)


def _ragged_lengths(rng: np.random.Generator, time: int, batch: int) -> Array:
    """Lengths from 1 to ``time``, both present, in no order (where the batch has room for disorder)."""
    lengths = rng.integers(1, time + 1, batch)
    first, last = (batch - 2) % batch, (batch - 1) % batch
    lengths[first], lengths[last] = 1, time  # short before long: never torch's sorted order
    return lengths.astype(np.int32)
