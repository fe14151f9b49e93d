"""The first step at which a port differs from the oracle."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np

from jaxlstm.check.cases.case import Case
from jaxlstm.check.cases.results import Results
from jaxlstm.check.diagnosis.gates import gates_of_one_step
from jaxlstm.check.reference.oracle_lstm import OracleLSTM
from jaxlstm.check.report.difference import Candidate, Divergence, StepDifference, first_divergence
from jaxlstm.check.subjects.port import PortSubject
from jaxlstm.layer.config import LSTMConfig

Array = np.ndarray
GateValues = dict[str, tuple[Array, Array]]
"""By gate, the values of the port and of the oracle, (units,) each."""


def locate_difference(
    port: PortSubject, case: Case, dtype: Any, tolerance: float | None = None
) -> StepDifference | None:
    """Return the first step at which a port differs from the oracle, or None.

    A port returns only outputs and final states. It is therefore run on the first 1, 2, 3, ... steps of the
    case until a run differs. The lowest layer whose state differs is the place. If the first step already
    differs, its gates are recovered too (:mod:`jaxlstm.check.diagnosis.gates`).
    """
    config = port.config
    case = port.adapt(case).astype(dtype)
    oracle = OracleLSTM(port.params, config).rounded(dtype)
    runs = partial(port.run, dtype=dtype, gradients=False), oracle.run
    for steps in range(1, case.inputs.shape[0] + 1):
        part = _first_steps(case, steps)
        ours, theirs = (run(part) for run in runs)
        candidates = list(_states(ours, theirs, config, part))
        place = first_divergence(candidates, tolerance)
        recovered: GateValues = {}
        if place is None:
            candidates = list(_outputs(ours, theirs, config))
            place = first_divergence(candidates, tolerance)
        elif steps == 1 and port.port.takes_state:
            slot = place.layer * config.num_directions + (place.direction == "reverse")
            a, b = (gates_of_one_step(run, config, part, slot, tolerance) for run in runs)
            recovered = {gate: (a[gate][place.row], b[gate][place.row]) for gate in b if gate in a}
        if place is not None:
            values = recovered | _values(candidates, place)
            where = (place.layer, place.direction == "reverse", place.time, place.row)
            by_gate = ((*where, gate, a, b) for gate, (a, b) in values.items())
            return StepDifference(first_divergence(by_gate, tolerance) or place, values)
    return None


def _first_steps(case: Case, steps: int) -> Case:
    """Return the first steps of a case. Shortening the lengths, if there are any, keeps the shape."""
    if case.seq_lengths is not None:
        return case.with_arrays(seq_lengths=np.minimum(case.seq_lengths, steps).astype(np.int32))
    return case.with_arrays(inputs=case.inputs[:steps])


def _states(ours: Results, theirs: Results, config: LSTMConfig, case: Case) -> Iterator[Candidate]:
    """Yield the final c and h of each layer, direction and row."""
    lengths = case.valid.sum(0)
    for layer, reverse in np.ndindex(config.num_layers, config.num_directions):
        slot = layer * config.num_directions + reverse
        for gate in "ch":
            a, b = (results.outputs.get(f"{gate}_n") for results in (ours, theirs))
            if a is not None and b is not None and a.shape == b.shape:
                for row, length in enumerate(lengths):
                    time = 0 if reverse else int(length) - 1
                    yield layer, reverse, time, row, gate, a[slot, row], b[slot, row]


def _outputs(ours: Results, theirs: Results, config: LSTMConfig) -> Iterator[Candidate]:
    """Yield the outputs of each step, row and direction of the last layer."""
    arrays = [results.outputs["outputs"] for results in (ours, theirs)]
    if arrays[0].shape == arrays[1].shape:
        a, b = (array.reshape(*array.shape[:2], config.num_directions, -1) for array in arrays)
        for at in np.ndindex(a.shape[:3]):
            time, row, reverse = at
            yield config.num_layers - 1, reverse, time, row, "output", a[at], b[at]


def _values(candidates: Iterable[Candidate], place: Divergence) -> GateValues:
    """Return the values of the candidates of one layer, direction and row at the time of a place."""
    direction = ("forward", "reverse").index(place.direction)
    at = (place.layer, direction, place.time, place.row)
    return {gate: (a, b) for *where, gate, a, b in candidates if tuple(where) == at}
