"""The gates of one step, recovered from a port that returns only its final state."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jaxlstm.check.cases.case import Case
from jaxlstm.check.cases.results import Results
from jaxlstm.check.report.difference import differing_units
from jaxlstm.layer.config import LSTMConfig

Array = np.ndarray


def gates_of_one_step(
    run: Callable[[Case], Results], config: LSTMConfig, case: Case, slot: int, tolerance: float | None
) -> dict[str, Array]:
    """Return the gates f, i*g and o (batch, units) of one layer and direction that can be recovered.

    c' = f c + i g is linear in c. Steps from c = 0 and c = 1 therefore give i g and f, and h' = o tanh(c')
    gives o, unless h is projected. A step from c = 2 verifies that c' is linear. It is not if more than one
    step was made or if c feeds the gates, and then no gate can be recovered.

    ``run`` runs the LSTM on a case and returns its results, ``case`` is one step with an initial state,
    and ``slot`` is the index of the layer and direction in the state.
    """
    results = [run(_starting_from(case, slot, value)).outputs for value in (0.0, 1.0, 2.0)]
    if "c_n" not in results[0]:
        return {}
    dtype = results[0]["c_n"].dtype
    c = [np.asarray(result["c_n"][slot], np.float64) for result in results]
    i_g, f = c[0], c[1] - c[0]
    if differing_units(c[2].astype(dtype), i_g + 2.0 * f, tolerance).size:
        return {}
    gates = {"f": f, "i*g": i_g}
    if "h_n" in results[1] and not config.proj_size:
        with np.errstate(all="ignore"):
            gates["o"] = np.asarray(results[1]["h_n"][slot], np.float64) / np.tanh(c[1])
    return {name: value.astype(dtype) for name, value in gates.items()}


def _starting_from(case: Case, slot: int, value: float) -> Case:
    """Return the case with every element of one slot of c_0 set to ``value``."""
    c_0 = np.array(case.arrays["c_0"])
    c_0[slot] = value
    return case.with_arrays(c_0=c_0)
