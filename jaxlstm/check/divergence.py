"""``trace``: where a port, or a set of recorded activations, first leaves the oracle."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from jaxlstm.check import oracle
from jaxlstm.check.answer import Answer
from jaxlstm.check.inputs import Case, ordinary_case
from jaxlstm.check.port import Port
from jaxlstm.config import LSTMConfig

Array = np.ndarray
Activations = Mapping[str, Mapping[str, Any]]

TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}


class Divergence(NamedTuple):
    """The first number that is not the oracle's.

    ``gate`` is one of i, f, g, o, c, h; "i*g", where a port shows only the product; or "output".
    """

    layer: int
    direction: str
    time: int
    row: int
    gate: str
    unit: int
    actual: float
    expected: float

    def __str__(self) -> str:
        return (
            f"leaves the oracle first in layer {self.layer}, {self.direction}, at time {self.time}, row "
            f"{self.row}, in {self.gate}, unit {self.unit}: {self.actual:.9g}, wanted {self.expected:.9g}"
        )


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
        return trace_port(Port.of(actual), params, config, case, dtype, tolerance)
    return _trace_activations(actual, params, config, case, tolerance)


def _trace_activations(
    actual: Activations,
    params: Mapping[str, Any],
    config: LSTMConfig,
    case: Case,
    tolerance: float | None,
) -> Divergence | None:
    record = _run(params, config, case).record
    for layer, runs in enumerate(record):
        for reverse, run in enumerate(runs):
            place = f"l{layer}_reverse" if reverse else f"l{layer}"
            gates = {gate: np.asarray(a) for gate, a in actual.get(place, {}).items()}
            for gate, value in gates.items():
                wanted = getattr(run.steps, gate).shape
                if value.shape != wanted:
                    raise ValueError(f"{place} {gate} has shape {value.shape}, wanted {wanted}")
            for t, row in _own_order(case, bool(reverse)):
                for gate in (gate for gate in oracle.Step._fields if gate in gates):
                    unit = _first_unit(
                        gates[gate][t, row], getattr(run.steps, gate)[t, row], tolerance
                    )
                    if unit is not None:
                        return Divergence(
                            layer,
                            "reverse" if reverse else "forward",
                            t,
                            row,
                            gate,
                            unit,
                            float(gates[gate][t, row, unit]),
                            float(getattr(run.steps, gate)[t, row, unit]),
                        )
    return None


def _own_order(case: Case, reverse: bool) -> Iterator[tuple[int, int]]:
    """(time, row) of the valid steps, in the order in which a direction takes them."""
    lengths = case.valid.sum(0)
    for s in range(int(lengths.max(initial=0))):
        for row in np.flatnonzero(lengths > s):
            yield int(lengths[row] - 1 - s if reverse else s), int(row)


def trace_port(
    port: Port,
    params: Mapping[str, Any],
    config: LSTMConfig,
    case: Case,
    dtype: Any,
    tolerance: float | None = None,
) -> Divergence | None:
    """Where a port first leaves the oracle, by the shortest beginning of the case on which it does.

    A port shows no more than its outputs and final states, so it is run on the first 1, 2, 3, ... steps;
    at the first of these that differs, the lowest layer whose state differs is where. With one step the
    gates show too: c' = f c + i g is linear in c, which gives f and i g, and h = o tanh(c') gives o.
    """
    case = port.adapt(case).astype(dtype)
    params = {name: np.asarray(a).astype(dtype) for name, a in params.items()}
    for n in range(1, case.inputs.shape[0] + 1):
        part = _beginning(case, n)
        ours = port.run(params, part, dtype)
        theirs = _run(params, config, part)
        found = _in_states(ours, theirs, config, part, tolerance)
        if found is None:
            found = _in_outputs(ours, theirs, config, part, tolerance)
        if found is not None:
            if n == 1 and found.gate in "ch" and port.takes_state:
                return _gate(port, params, config, part, dtype, tolerance, found) or found
            return found
    return None


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
                unit = _first_unit(a[slot, row], b[slot, row], tolerance)
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
    ours: Answer, theirs: oracle.Result, config: LSTMConfig, case: Case, tolerance: float | None
) -> Divergence | None:
    a, b = ours.outputs, theirs.outputs
    if a.shape != b.shape:
        return None
    for t in range(a.shape[0]):
        for row in range(a.shape[1]):
            feature = _first_unit(a[t, row], b[t, row], tolerance)
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


def _gate(
    port: Port,
    params: Mapping[str, Any],
    config: LSTMConfig,
    case: Case,
    dtype: Any,
    tolerance: float | None,
    found: Divergence,
) -> Divergence | None:
    """Which gate of a single step is the first that is wrong, told from steps with c_0 = 0 and 1."""
    slot = found.layer * config.num_directions + (found.direction == "reverse")
    assert case.initial_state is not None

    def gates(run: Callable[[Case], Any]) -> dict[str, Array]:
        h_n, c_n = [], []
        for value in (0.0, 1.0):
            h_0, c_0 = (np.array(a) for a in case.initial_state or ())
            c_0[slot] = value
            answer = run(replace(case, initial_state=(h_0, c_0)))
            h_n.append(np.asarray(answer.h_n[slot], np.float64))
            c_n.append(np.asarray(answer.c_n[slot], np.float64))
        seen = {"f": c_n[1] - c_n[0], "i*g": c_n[0]}
        if not config.proj_size:
            with np.errstate(all="ignore"):
                seen["o"] = h_n[1] / np.tanh(c_n[1])
        return seen

    ours = gates(lambda part: port.run(params, part, dtype))
    theirs = gates(lambda part: _run(params, config, part))
    for name, value in ours.items():
        unit = _first_unit(
            value[found.row], theirs[name][found.row], tolerance or TOLERANCE[np.dtype(dtype).name]
        )
        if unit is not None:
            return found._replace(
                gate=name,
                unit=unit,
                actual=float(value[found.row, unit]),
                expected=float(theirs[name][found.row, unit]),
            )
    return None


def _run(params: Mapping[str, Any], config: LSTMConfig, case: Case) -> oracle.Result:
    with np.errstate(all="ignore"):
        return oracle.forward(params, case.inputs, case.initial_state, case.seq_lengths, config)


def _first_unit(actual: Array, expected: Array, tolerance: float | None) -> int | None:
    """The first element that is further from the oracle than allowed."""
    far = TOLERANCE.get(actual.dtype.name, 1e-9) if tolerance is None else tolerance
    allowed = far * np.maximum(1.0, np.abs(expected))
    wrong = np.flatnonzero(~(np.abs(np.asarray(actual, np.float64) - expected) <= allowed))
    return int(wrong[0]) if wrong.size else None
