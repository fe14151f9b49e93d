"""The first step at which a port differs from the oracle."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from jaxlstm.check.diagnosis.gates import gates_of_one_step
from jaxlstm.check.port import Port
from jaxlstm.check.reference.cases import Case
from jaxlstm.check.reference.oracle import OracleRun
from jaxlstm.check.reference.results import Results, run_oracle
from jaxlstm.check.report.difference import Candidate, Divergence, StepDifference, first_divergence
from jaxlstm.layer.config import LSTMConfig

Array = np.ndarray
GateValues = dict[str, tuple[Array, Array]]
"""By gate, the values of the port and of the oracle, (units,) each."""


def locate_difference(
    port: Port,
    params: Mapping[str, Any],
    config: LSTMConfig,
    case: Case,
    dtype: Any,
    tolerance: float | None = None,
    precision: str | None = "highest",
) -> StepDifference | None:
    """Return the first step at which a port differs from the oracle, or None.

    A port returns only outputs and final states. It is therefore run on the first 1, 2, 3, ... steps of the
    case until a run differs. The lowest layer whose state differs is the place. If the first step already
    differs, its gates are recovered too (:mod:`jaxlstm.check.diagnosis.gates`).
    """
    case = port.adapt(case).astype(dtype)
    params = {name: np.asarray(a).astype(dtype) for name, a in params.items()}
    run_port = functools.partial(port.run, params, dtype=dtype, precision=precision)
    run_reference = functools.partial(run_oracle, params, config)
    for steps in range(1, case.inputs.shape[0] + 1):
        part = _first_steps(case, steps)
        ours, theirs = run_port(part), run_reference(part)
        place = first_divergence(_states(ours, theirs, config, part), tolerance)
        if place is None:
            place = first_divergence(_outputs(ours, theirs, config), tolerance)
            if place is None:
                continue
            values = _values(_outputs(ours, theirs, config), place)
        else:
            values = _values(_states(ours, theirs, config, part), place)
            if steps == 1 and port.takes_state:
                slot = place.layer * config.num_directions + (place.direction == "reverse")
                gates = [
                    gates_of_one_step(run, config, part, slot, tolerance) for run in (run_port, run_reference)
                ]
                shown = [gate for gate in gates[1] if gate in gates[0]]
                row = place.row
                values = {g: (gates[0][g][row], gates[1][g][row]) for g in shown} | values
        reverse, at = place.direction == "reverse", (place.time, place.row)
        by_gate = ((place.layer, reverse, *at, gate, a, b) for gate, (a, b) in values.items())
        return StepDifference(first_divergence(by_gate, tolerance) or place, values)
    return None


def _first_steps(case: Case, steps: int) -> Case:
    """Return the first steps of a case. Shortening the lengths, if there are any, keeps the shape."""
    if case.seq_lengths is not None:
        return replace(case, seq_lengths=np.minimum(case.seq_lengths, steps).astype(np.int32))
    d_out, d_h, d_c = case.cotangents
    return replace(case, inputs=case.inputs[:steps], cotangents=(d_out[:steps], d_h, d_c))


def _states(ours: Results, theirs: OracleRun, config: LSTMConfig, case: Case) -> Iterator[Candidate]:
    """Yield the final c and h of each layer, direction and row."""
    lengths = case.valid.sum(0)
    for layer, reverse in np.ndindex(config.num_layers, config.num_directions):
        slot = layer * config.num_directions + reverse
        for gate, a, b in (("c", ours.c_n, theirs.c_n), ("h", ours.h_n, theirs.h_n)):
            if a is not None and a.shape == b.shape:
                for row, length in enumerate(lengths):
                    time = 0 if reverse else int(length) - 1
                    yield layer, reverse, time, row, gate, a[slot, row], b[slot, row]


def _outputs(ours: Results, theirs: OracleRun, config: LSTMConfig) -> Iterator[Candidate]:
    """Yield the outputs of each step, row and direction of the last layer."""
    if ours.outputs.shape == theirs.outputs.shape:
        a, b = (
            results.outputs.reshape(*theirs.outputs.shape[:2], config.num_directions, -1)
            for results in (ours, theirs)
        )
        for at in np.ndindex(a.shape[:3]):
            time, row, reverse = at
            yield config.num_layers - 1, reverse, time, row, "output", a[at], b[at]


def _values(candidates: Iterable[Candidate], place: Divergence) -> GateValues:
    """Return the values of the candidates of one layer, direction and row at the time of a place."""
    direction = ("forward", "reverse").index(place.direction)
    at = (place.layer, direction, place.time, place.row)
    return {gate: (a, b) for *where, gate, a, b in candidates if tuple(where) == at}
