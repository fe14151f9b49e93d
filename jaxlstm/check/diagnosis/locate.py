"""The first step at which a port differs from the oracle."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from jaxlstm.check.diagnosis.gates import gates_of_one_step
from jaxlstm.check.port import Port
from jaxlstm.check.reference.cases import Case
from jaxlstm.check.reference.oracle import OracleRun
from jaxlstm.check.reference.results import Results, run_oracle
from jaxlstm.check.report.difference import Divergence, StepDifference
from jaxlstm.config import LSTMConfig

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
    for steps in range(1, case.inputs.shape[0] + 1):
        part = _first_steps(case, steps)
        ours, theirs = run_port(part), run_oracle(params, config, part)
        place = _state_divergence(ours, theirs, config, part, tolerance)
        if place is None:
            place = _output_divergence(ours, theirs, config, tolerance)
        if place is None:
            continue
        values = _values_at(place, ours, theirs, config)
        if steps == 1 and port.takes_state and place.gate != "output":
            run_reference = functools.partial(run_oracle, params, config)
            gates = _gates_at(place, run_port, run_reference, config, part, tolerance)
            values = gates | values
        return StepDifference(_first_gate(place, values, tolerance), values)
    return None


def _first_steps(case: Case, steps: int) -> Case:
    """Return the first steps of a case. Shortening the lengths, if there are any, keeps the shape."""
    if case.seq_lengths is not None:
        return replace(case, seq_lengths=np.minimum(case.seq_lengths, steps).astype(np.int32))
    d_out, d_h, d_c = case.cotangents
    return replace(case, inputs=case.inputs[:steps], cotangents=(d_out[:steps], d_h, d_c))


def _state_divergence(
    ours: Results, theirs: OracleRun, config: LSTMConfig, case: Case, tolerance: float | None
) -> Divergence | None:
    lengths = case.valid.sum(0)
    for slot in range(config.num_layers * config.num_directions):
        layer, reverse = divmod(slot, config.num_directions)
        for gate, a, b in (("c", ours.c_n, theirs.c_n), ("h", ours.h_n, theirs.h_n)):
            if a is None or a.shape != b.shape:
                continue
            for row, length in enumerate(lengths):
                time = 0 if reverse else int(length) - 1
                place = Divergence.at(
                    layer, reverse, time, row, gate, a[slot, row], b[slot, row], tolerance
                )
                if place is not None:
                    return place
    return None


def _output_divergence(
    ours: Results, theirs: OracleRun, config: LSTMConfig, tolerance: float | None
) -> Divergence | None:
    a, b = ours.outputs, theirs.outputs
    if a.shape != b.shape:
        return None
    layer = config.num_layers - 1
    for time, row in np.ndindex(a.shape[:2]):
        place = Divergence.at(layer, 0, time, row, "output", a[time, row], b[time, row], tolerance)
        if place is not None:
            reverse, unit = divmod(place.unit, config.h_size)
            return place._replace(direction="reverse" if reverse else "forward", unit=unit)
    return None


def _values_at(
    place: Divergence, ours: Results, theirs: OracleRun, config: LSTMConfig
) -> GateValues:
    """Return c and h, or the outputs of the direction, from the results themselves."""
    slot, reverse = _slot(config, place), place.direction == "reverse"
    if place.gate == "output":
        a, b = (
            results.outputs[place.time, place.row].reshape(-1, config.h_size)[int(reverse)]
            for results in (ours, theirs)
        )
        return {"output": (a, b)}
    return {
        gate: (a[slot, place.row], b[slot, place.row])
        for gate, a, b in (("c", ours.c_n, theirs.c_n), ("h", ours.h_n, theirs.h_n))
        if a is not None and a.shape == b.shape
    }


def _gates_at(
    place: Divergence,
    run_port: Callable[[Case], Any],
    run_reference: Callable[[Case], Any],
    config: LSTMConfig,
    case: Case,
    tolerance: float | None,
) -> GateValues:
    """Return the gates that can be recovered from steps with other initial states."""
    slot = _slot(config, place)
    ours, theirs = (
        gates_of_one_step(run, config, case, slot, tolerance) for run in (run_port, run_reference)
    )
    return {
        gate: (ours[gate][place.row], theirs[gate][place.row]) for gate in theirs if gate in ours
    }


def _first_gate(place: Divergence, values: GateValues, tolerance: float | None) -> Divergence:
    """Move the place to the first gate of its step that differs."""
    reverse = place.direction == "reverse"
    for gate, (a, b) in values.items():
        found = Divergence.at(place.layer, reverse, place.time, place.row, gate, a, b, tolerance)
        if found is not None:
            return found
    return place


def _slot(config: LSTMConfig, place: Divergence) -> int:
    return place.layer * config.num_directions + (place.direction == "reverse")
