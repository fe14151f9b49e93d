"""The gates of one step, told from a port that shows no more than its final states."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from jaxlstm.check.inputs import Case
from jaxlstm.check.place import units_off
from jaxlstm.config import LSTMConfig

Array = np.ndarray


def told_by_one_step(
    run: Callable[[Case], Any], config: LSTMConfig, case: Case, slot: int, tolerance: float | None
) -> dict[str, Array]:
    """The gates f, i*g and o (batch, units) of one layer and direction, as far as they can be told.

    c' = f c + i g is linear in c: steps from c = 0 and c = 1 give i g and f, and h' = o tanh(c') gives o,
    but under a projection. Where the step from c = 2 is not on that line, as when more than one step was
    made, or c reaches the gates, nothing can be told.

    Args:
      run: the LSTM, which gives h_n and c_n.
      config: the LSTM's.
      case: one step, with an initial state.
      slot: of the layer and direction, in the initial state.
      tolerance: of the line; None: by dtype.
    """
    answers = [run(_starting(case, slot, value)) for value in (0.0, 1.0, 2.0)]
    if answers[0].c_n is None:
        return {}
    kind = answers[0].c_n.dtype
    c = [np.asarray(answer.c_n[slot], np.float64) for answer in answers]
    i_g, f = c[0], c[1] - c[0]
    if units_off(c[2].astype(kind), i_g + 2.0 * f, tolerance).size:
        return {}
    found = {"f": f, "i*g": i_g}
    if answers[1].h_n is not None and not config.proj_size:
        with np.errstate(all="ignore"):
            found["o"] = np.asarray(answers[1].h_n[slot], np.float64) / np.tanh(c[1])
    return {gate: value.astype(kind) for gate, value in found.items()}


def _starting(case: Case, slot: int, value: float) -> Case:
    """The case with c_0 the same number all over one slot."""
    h_0, c_0 = (np.array(a) for a in case.initial_state or ())
    c_0[slot] = value
    return replace(case, initial_state=(h_0, c_0))
