"""Test inputs: the cases of an LSTM.

The choice of inputs matters more than the tolerance. On one layer with a zero initial state, 16 of 30 wrong
ports look right. The cases of an LSTM therefore have:

- a non-zero initial state, with h_0 unlike c_0;
- ragged, unsorted lengths, with numbers in the padding, and a sequence of length 0, which torch refuses;
- a batch of one and larger batches, and one, some and many time steps;
- no initial state;
- magnitudes that saturate the gates and magnitudes that nearly vanish;
- cell states of up to 10,000, which show that c is not clipped;
- NaN in one row and infinity in another, which must not reach the other rows.

Every case follows from the config and a seed.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from jaxlstm.check.cases.case import Array, Case
from jaxlstm.layer.config import LSTMConfig

RAGGED_TIME = 12
_RAGGED: dict[str, Any] = {"time": RAGGED_TIME, "batch": 5, "ragged": True}
LONG_TIME = 202
LARGE_BATCH = 70
LARGE_C = 1e4
"""Largest element of an initial cell state. float16 ends at 65,504."""


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
    arrays = {
        "inputs": scale * rng.standard_normal((time, batch, config.input_size)),
        "h_0": scale * rng.uniform(-1, 1, h_shape),
        "c_0": scale * (0.5 + rng.standard_normal(c_shape)),
    }
    if ragged:
        arrays["seq_lengths"] = _ragged_lengths(rng, time, batch)
    shapes = {"outputs": (time, batch, config.output_size), "h_n": h_shape, "c_n": c_shape}
    cotangents = {result: rng.standard_normal(shape) for result, shape in shapes.items()}
    return Case(name, arrays, cotangents, differentiate)


def ordinary_case(config: LSTMConfig, seed: int = 0) -> Case:
    """Return the case that shows most faults: a ragged batch of ordinary magnitudes."""
    return replace(make_case("ragged", config, np.random.default_rng([seed, 0]), **_RAGGED), repeated=True)


def standard_cases(config: LSTMConfig, seed: int = 0) -> tuple[Case, ...]:
    """Return every case of a verification.

    Cases share shapes where possible, because each shape costs a jitted port one compilation. The dense case
    has as many rows as steps, so that a port which swaps the batch and time axes runs on it. A port may
    refuse the last two.
    """

    def rng(number: int) -> np.random.Generator:
        return np.random.default_rng([seed, number])

    single_step: dict[str, Any] = {"time": 1, "batch": LARGE_BATCH, "differentiate": False}
    one_step = make_case("one step from zeros", config, rng(8), **single_step)
    zeros = {name: np.zeros_like(one_step.arrays[name]) for name in ("h_0", "c_0")}
    return (
        ordinary_case(config, seed),
        make_case("saturating", config, rng(1), scale=8.0, **_RAGGED),
        make_case("tiny", config, rng(2), scale=1e-4, **_RAGGED),
        nan_case(config, rng(3)),
        make_case("dense", config, rng(4), time=9, batch=9),
        make_case("batch 1", config, rng(5), time=7, batch=1, differentiate=False),
        make_case("one step", config, rng(6), **single_step),
        # From a zero state, where a fault of the initial state cannot hide another fault.
        one_step.with_arrays(**zeros),
        large_c_case(config, rng(9)),
        make_case("long", config, rng(7), time=LONG_TIME, batch=1),
        replace(one_step.without("h_0", "c_0"), name="no state", optional=True),
        _length_0_case(config, rng(10)),
    )


def large_c_case(config: LSTMConfig, rng: np.random.Generator) -> Case:
    """Return a case of one step from cell states of either sign, between 100 and ``LARGE_C``."""
    case = make_case("large c", config, rng, time=1, batch=LARGE_BATCH, differentiate=False)
    c_0 = case.arrays["c_0"]
    sizes = 10 ** rng.uniform(2, np.log10(LARGE_C), c_0.shape)
    return replace(case.with_arrays(c_0=np.copysign(sizes, c_0)), scale=LARGE_C)


def nan_case(config: LSTMConfig, rng: np.random.Generator) -> Case:
    """Return a case with NaN in one row, infinity in another and NaN in the padding of a third."""
    case = make_case("NaN and Inf", config, rng, differentiate=False, **_RAGGED)
    inputs, lengths = case.inputs.copy(), case.arrays["seq_lengths"]
    longest, second, *_, shortest = np.argsort(-lengths, kind="stable")
    inputs[lengths[longest] // 2, longest, 0] = np.nan
    inputs[0, second, -1] = np.inf
    inputs[lengths[shortest] :, shortest] = np.nan
    return case.with_arrays(inputs=inputs)


def _length_0_case(config: LSTMConfig, rng: np.random.Generator) -> Case:
    """Return a case whose longest sequence has no step: its final state is the initial one."""
    case = make_case("length 0", config, rng, differentiate=False, **_RAGGED)
    lengths = case.arrays["seq_lengths"]
    return replace(case.with_arrays(seq_lengths=lengths % lengths.max()), optional=True)


def _ragged_lengths(rng: np.random.Generator, time: int, batch: int) -> Array:
    """Draw lengths from 1 to ``time``, both of which occur if the batch has two rows."""
    lengths = rng.integers(1, time + 1, batch)
    # Short before long, which is never torch's sorted order.
    lengths[(batch - 2) % batch], lengths[(batch - 1) % batch] = 1, time
    return lengths.astype(np.int32)
