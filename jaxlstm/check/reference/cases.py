"""Test cases: the inputs on which a port is compared with the references.

The choice of inputs matters more than the tolerance. On one layer with a zero initial state, 16 of 30 wrong
ports look right. The cases here therefore have:

- a non-zero initial state, with h_0 unlike c_0;
- ragged, unsorted lengths, with numbers in the padding;
- a batch of one and larger batches, and one, some and many time steps;
- magnitudes that saturate the gates and magnitudes that nearly vanish;
- cell states of up to 10,000, which show that c is not clipped;
- NaN in one row and infinity in another, which must not reach the other rows.

Every case follows from the config and a seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jaxlstm.layer.config import LSTMConfig

Array = np.ndarray

RAGGED_TIME = 12
LONG_TIME = 100
LARGE_C = 1e4
"""Largest element of an initial cell state. float16 ends at 65,504."""


@dataclass(frozen=True)
class Case:
    """The arguments of one call of an LSTM, and the cotangents of its results.

    Attributes:
      name: a label for reports.
      inputs: (time, batch, input_size).
      initial_state: (h_0, c_0), of shapes (L*D, batch, h_size) and (L*D, batch, H), or None for zeros.
      seq_lengths: int32 (batch,), or None if every step is valid.
      cotangents: arrays of the shapes of outputs, h_n and c_n.
      differentiate: if true, gradients are compared too.
      largest_c: the scale of the absolute limits. A rounding error of the forget gate is multiplied by c.
    """

    name: str
    inputs: Array
    initial_state: tuple[Array, Array] | None
    seq_lengths: Array | None
    cotangents: tuple[Array, Array, Array]
    differentiate: bool = True
    largest_c: float = 1.0

    def astype(self, dtype: Any) -> Case:
        """Return the case with every number rounded to ``dtype``."""
        rounded = self.map(lambda a: a.astype(dtype))
        return replace(rounded, cotangents=tuple(a.astype(dtype) for a in self.cotangents))

    def map(self, change: Callable[[Array], Array]) -> Case:
        """Return the case with ``change`` applied to the inputs and the initial state."""
        inputs, state = change(self.inputs), self.initial_state
        if state is not None:
            state = (change(state[0]), change(state[1]))
        return replace(self, inputs=inputs, initial_state=state)

    def without(self, *, state: bool = False, lengths: bool = False) -> Case:
        """Return the case without its initial state or its lengths."""
        return replace(
            self,
            initial_state=None if state else self.initial_state,
            seq_lengths=None if lengths else self.seq_lengths,
        )

    def without_results(self, *, h_n: bool, c_n: bool) -> Case:
        """Return the case with zero cotangents for the final states that a port does not return."""
        outputs, h, c = self.cotangents
        return replace(
            self, cotangents=(outputs, np.zeros_like(h) if h_n else h, np.zeros_like(c) if c_n else c)
        )

    @property
    def valid(self) -> Array:
        """A bool mask (time, batch), true inside each sequence."""
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
    """Draw a case with normal inputs of standard deviation ``scale`` and a non-zero initial state.

    If ``ragged`` is true, lengths are drawn from 1 to ``time``. Both extremes occur, and the lengths are
    not sorted.
    """
    h_shape, c_shape = config.state_shapes(batch)
    return Case(
        name,
        inputs=scale * rng.standard_normal((time, batch, config.input_size)),
        initial_state=(scale * rng.uniform(-1, 1, h_shape), scale * (0.5 + rng.standard_normal(c_shape))),
        seq_lengths=_ragged_lengths(rng, time, batch) if ragged else None,
        cotangents=(
            rng.standard_normal((time, batch, config.output_size)),
            rng.standard_normal(h_shape),
            rng.standard_normal(c_shape),
        ),
        differentiate=differentiate,
    )


def ordinary_case(config: LSTMConfig, seed: int = 0) -> Case:
    """Return the case that shows most faults: a ragged batch of ordinary magnitudes."""
    rng = np.random.default_rng([seed, 0])
    return make_case("ragged", config, rng, time=RAGGED_TIME, batch=5, ragged=True)


def standard_cases(config: LSTMConfig, seed: int = 0) -> tuple[Case, ...]:
    """Return every case of a verification.

    Cases share shapes where possible, because each shape costs a jitted port one compilation. Gradients
    are compared at two shapes only. The dense case has as many rows as steps, so that a port which swaps
    the batch and time axes runs on it.
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
        large_c_case(config, rng(9)),
        make_case("long", config, rng(7), time=LONG_TIME, batch=2, differentiate=False),
    )


def _from_zeros(case: Case) -> Case:
    """Return the case with a zero state, where a fault of the initial state cannot hide another fault."""
    assert case.initial_state is not None
    h_0, c_0 = map(np.zeros_like, case.initial_state)
    return replace(case, initial_state=(h_0, c_0), differentiate=False)


def large_c_case(config: LSTMConfig, rng: np.random.Generator) -> Case:
    """Return a case of one step from cell states of either sign, between 100 and ``LARGE_C``."""
    case = make_case("large c", config, rng, time=1, batch=3, differentiate=False)
    assert case.initial_state is not None
    h_0, c_0 = case.initial_state
    sizes = 10 ** rng.uniform(2, np.log10(LARGE_C), c_0.shape)
    return replace(case, initial_state=(h_0, np.copysign(sizes, c_0)), largest_c=LARGE_C)


def nan_case(config: LSTMConfig, rng: np.random.Generator) -> Case:
    """Return a case with NaN in one row, infinity in another and NaN in the padding of a third."""
    case = make_case("NaN and Inf", config, rng, time=RAGGED_TIME, batch=5, ragged=True)
    assert case.seq_lengths is not None
    inputs = case.inputs.copy()
    longest, second, *_, shortest = np.argsort(-case.seq_lengths, kind="stable")
    inputs[case.seq_lengths[longest] // 2, longest, 0] = np.nan
    inputs[0, second, -1] = np.inf
    inputs[case.seq_lengths[shortest] :, shortest] = np.nan
    return replace(case, inputs=inputs, differentiate=False)


def _ragged_lengths(rng: np.random.Generator, time: int, batch: int) -> Array:
    """Draw lengths from 1 to ``time``, both of which occur if the batch has two rows."""
    lengths = rng.integers(1, time + 1, batch)
    # Short before long, which is never torch's sorted order.
    lengths[(batch - 2) % batch], lengths[(batch - 1) % batch] = 1, time
    return lengths.astype(np.int32)
