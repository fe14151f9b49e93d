"""The first step at which a port differs from the oracle, and the gates of that step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from jaxlstm.check.cases.case import Case
from jaxlstm.check.cases.results import Results
from jaxlstm.check.reference.oracle_lstm import OracleLSTM
from jaxlstm.check.report.item import Candidate, StepDifference, differing_units, first_difference
from jaxlstm.check.subjects.port import PortSubject
from jaxlstm.layer.config import LSTMConfig

Array = np.ndarray


def locate_difference(
    port: PortSubject, case: Case, dtype: Any, tolerance: float | None = None
) -> StepDifference | None:
    """Return the first step at which a port differs from the oracle, or None.

    A port returns only outputs and final states. It is therefore run on the first 1, 2, 3, ... steps of the
    case until a run differs. The lowest layer whose state differs is the place. If the first step already
    differs, its gates are recovered too (:func:`gates_of_one_step`).
    """
    config = port.config
    case = port.adapt(case).astype(dtype)
    oracle = OracleLSTM(port.params, config).rounded(dtype)
    runs = partial(port.run, dtype=dtype, gradients=False), oracle.run
    for steps in range(1, case.inputs.shape[0] + 1):
        part = _first_steps(case, steps)
        ours, theirs = (run(part) for run in runs)
        found = first_difference(_states(ours, theirs, config, part), tolerance)
        if found is None:
            found = first_difference(_outputs(ours, theirs, config), tolerance)
        elif steps == 1 and port.port.takes_state:
            layer, reverse, _, row = where = found.place.indices
            slot = layer * config.num_directions + reverse
            a, b = (gates_of_one_step(run, config, part, slot, tolerance) for run in runs)
            recovered = {gate: (a[gate][row], b[gate][row]) for gate in b if gate in a}
            found = first_difference([(where, {**recovered, **found.gates})], tolerance)
        if found is not None:
            return found
    return None


def _first_steps(case: Case, steps: int) -> Case:
    """Return the first steps of a case. Shortening the lengths, if there are any, keeps the shape."""
    if case.seq_lengths is not None:
        return case.with_arrays(seq_lengths=np.minimum(case.seq_lengths, steps).astype(np.int32))
    return case.with_arrays(inputs=case.inputs[:steps])


def _states(ours: Results, theirs: Results, config: LSTMConfig, case: Case) -> Iterator[Candidate]:
    """Yield the final c and h of each layer, direction and row."""
    names = [gate for gate in "ch" if _have(f"{gate}_n", ours, theirs)]
    for layer, reverse in np.ndindex(config.num_layers, config.num_directions):
        slot = layer * config.num_directions + reverse
        for row, length in enumerate(case.valid.sum(0).tolist()):
            gates = {
                gate: (ours.outputs[f"{gate}_n"][slot, row], theirs.outputs[f"{gate}_n"][slot, row])
                for gate in names
            }
            yield (layer, reverse, 0 if reverse else length - 1, row), gates


def _outputs(ours: Results, theirs: Results, config: LSTMConfig) -> Iterator[Candidate]:
    """Yield the outputs of each step, row and direction of the last layer."""
    if _have("outputs", ours, theirs):
        a, b = (results.outputs["outputs"] for results in (ours, theirs))
        a, b = (array.reshape(*array.shape[:2], config.num_directions, -1) for array in (a, b))
        for time, row, reverse in np.ndindex(a.shape[:3]):
            at = time, row, reverse
            yield (config.num_layers - 1, reverse, time, row), {"output": (a[at], b[at])}


def _have(name: str, ours: Results, theirs: Results) -> bool:
    """Return True if both results have an output of this name in the same shape."""
    return name in ours.outputs and ours.outputs[name].shape == theirs.outputs[name].shape


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
