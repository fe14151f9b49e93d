"""``trace``: where a port, or a set of recorded activations, first leaves the oracle."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from jaxlstm.check import oracle
from jaxlstm.check.answer import Answer
from jaxlstm.check.gates import told_by_one_step
from jaxlstm.check.inputs import Case, ordinary_case
from jaxlstm.check.place import Difference, Divergence, first_unit, run_oracle
from jaxlstm.check.port import Port
from jaxlstm.check.recorded import Activations, trace_activations
from jaxlstm.config import LSTMConfig

Array = np.ndarray


def trace(
    actual: Callable[..., Any] | Activations,
    params: Mapping[str, Any],
    config: LSTMConfig,
    *,
    inputs: Any = None,
    initial_state: tuple[Any, Any] | None = None,
    seq_lengths: Any = None,
    dtype: Any = "float32",
    tolerance: float | None = None,
) -> Divergence | None:
    """Where a port or recorded activations first leave the oracle; None if nowhere.

    Args:
      actual: a port (see :mod:`jaxlstm.check.port`), or activations: for ``"l0"``, ``"l0_reverse"``,
        ``"l1"`` and so on, arrays (time, batch, units) under any of the names i, f, g, o, c, h.
      params: arrays under torch's names.
      config: the LSTM.
      inputs: (time, batch, input_size). None, for a port only: a random ragged case.
      initial_state: (h_0, c_0), or None for zeros.
      seq_lengths: ints (batch,), or None if every step is valid.
      dtype: in which to run a port.
      tolerance: absolute, and relative above 1; by dtype if None.

    Raises:
      ValueError: activations without the inputs that they belong to, or of another shape.
    """
    if inputs is None and not callable(actual):
        raise ValueError("inputs must be those of the activations, got None")
    case = ordinary_case(config)
    if inputs is not None:
        lengths = None if seq_lengths is None else np.asarray(seq_lengths)
        state = None if initial_state is None else tuple(map(np.asarray, initial_state))
        case = replace(case, inputs=np.asarray(inputs), initial_state=state, seq_lengths=lengths)
    if callable(actual):
        found = trace_port(Port.of(actual), params, config, case, dtype, tolerance)
        return None if found is None else found.place
    return trace_activations(actual, params, config, case, tolerance)


def trace_port(
    port: Port,
    params: Mapping[str, Any],
    config: LSTMConfig,
    case: Case,
    dtype: Any,
    tolerance: float | None = None,
    precision: str | None = "highest",
) -> Difference | None:
    """Where a port first leaves the oracle, by the shortest beginning of the case on which it does.

    A port shows no more than its outputs and final states, so it is run on the first 1, 2, 3, ... steps;
    at the first of these that differs, the lowest layer whose state differs is where. With one step the
    gates show too (:mod:`jaxlstm.check.gates`).
    """
    case = port.adapt(case).astype(dtype)
    params = {name: np.asarray(a).astype(dtype) for name, a in params.items()}
    for n in range(1, case.inputs.shape[0] + 1):
        part = _beginning(case, n)
        ours = port.run(params, part, dtype, precision=precision)
        theirs = run_oracle(params, config, part)
        place = _in_states(ours, theirs, config, part, tolerance)
        if place is None:
            place = _in_outputs(ours, theirs, config, tolerance)
        if place is not None:
            seen = _shown(ours, theirs, config, place)
            if n == 1 and port.takes_state and place.gate != "output":
                oracle_run = functools.partial(run_oracle, params, config)
                port_run = functools.partial(port.run, params, dtype=dtype, precision=precision)
                seen = _gates(port_run, oracle_run, config, part, place, tolerance) | seen
            return Difference(_first_gate(place, seen, tolerance), seen)
    return None


def _shown(
    ours: Answer, theirs: oracle.Result, config: LSTMConfig, place: Divergence
) -> dict[str, tuple[Array, Array]]:
    """What a port tells of a place by itself: c and h, or the output of a direction."""
    slot, reverse = _slot(config, place), place.direction == "reverse"
    if place.gate == "output":
        a, b = (
            answer.outputs[place.time, place.row].reshape(-1, config.h_size)[int(reverse)]
            for answer in (ours, theirs)
        )
        return {"output": (a, b)}
    return {
        gate: (a[slot, place.row], b[slot, place.row])
        for gate, a, b in (("c", ours.c_n, theirs.c_n), ("h", ours.h_n, theirs.h_n))
        if a is not None and a.shape == b.shape
    }


def _gates(
    ours: Callable[[Case], Any],
    theirs: Callable[[Case], Any],
    config: LSTMConfig,
    case: Case,
    place: Divergence,
    tolerance: float | None,
) -> dict[str, tuple[Array, Array]]:
    """What steps from other states tell of the gates at a place: the port's and the oracle's."""
    slot = _slot(config, place)
    a, b = (told_by_one_step(run, config, case, slot, tolerance) for run in (ours, theirs))
    return {gate: (a[gate][place.row], b[gate][place.row]) for gate in b if gate in a}


def _slot(config: LSTMConfig, place: Divergence) -> int:
    return place.layer * config.num_directions + (place.direction == "reverse")


def _first_gate(
    place: Divergence, seen: Mapping[str, tuple[Array, Array]], tolerance: float | None
) -> Divergence:
    """The place, moved to the first gate of its step that differs."""
    for gate, (a, b) in seen.items():
        unit = first_unit(a, b, tolerance)
        if unit is not None:
            return place._replace(
                gate=gate, unit=unit, actual=float(a[unit]), expected=float(b[unit])
            )
    return place


def _beginning(case: Case, n: int) -> Case:
    """The first ``n`` steps; by lengths where there are lengths, which keeps the shape as it is."""
    if case.seq_lengths is not None:
        return replace(case, seq_lengths=np.minimum(case.seq_lengths, n).astype(np.int32))
    d_out, d_h, d_c = case.cotangents
    return replace(case, inputs=case.inputs[:n], cotangents=(d_out[:n], d_h, d_c))


def _in_states(
    ours: Answer, theirs: oracle.Result, config: LSTMConfig, case: Case, tolerance: float | None
) -> Divergence | None:
    lengths = case.valid.sum(0)
    for slot in range(config.num_layers * config.num_directions):
        layer, reverse = divmod(slot, config.num_directions)
        for gate, a, b in (("c", ours.c_n, theirs.c_n), ("h", ours.h_n, theirs.h_n)):
            if a is None or a.shape != b.shape:
                continue
            for row, length in enumerate(lengths):
                unit = first_unit(a[slot, row], b[slot, row], tolerance)
                if unit is not None:
                    return Divergence(
                        layer,
                        "reverse" if reverse else "forward",
                        0 if reverse else int(length) - 1,
                        row,
                        gate,
                        unit,
                        float(a[slot, row, unit]),
                        float(b[slot, row, unit]),
                    )
    return None


def _in_outputs(
    ours: Answer, theirs: oracle.Result, config: LSTMConfig, tolerance: float | None
) -> Divergence | None:
    a, b = ours.outputs, theirs.outputs
    if a.shape != b.shape:
        return None
    for t in range(a.shape[0]):
        for row in range(a.shape[1]):
            feature = first_unit(a[t, row], b[t, row], tolerance)
            if feature is not None:
                reverse, unit = divmod(feature, config.h_size)
                return Divergence(
                    config.num_layers - 1,
                    "reverse" if reverse else "forward",
                    t,
                    row,
                    "output",
                    unit,
                    float(a[t, row, feature]),
                    float(b[t, row, feature]),
                )
    return None
