"""Where a port or recorded activations first differ from the oracle, and which gradients are wrong."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from jaxlstm._shared.table import format_number
from jaxlstm.check.cases.case import Array, Case, Results, largest
from jaxlstm.check.cases.inputs import ordinary_case
from jaxlstm.check.criteria.difference import AGREEMENT, EQUAL
from jaxlstm.check.reference import oracle
from jaxlstm.check.reference.oracle_lstm import OracleLSTM
from jaxlstm.check.report.item import Divergence
from jaxlstm.check.subjects.port import Port
from jaxlstm.layer.config import LSTMConfig

Activations = Mapping[str, Mapping[str, Any]]


Candidate = tuple[tuple[int, int, int, int], Mapping[str, tuple[Array, Array]]]
"""Layer, reverse, time and row; and by gate the values of a port and of the oracle, (units,) each."""


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
    """Return the first place at which a port or recorded activations differ from the oracle, or None.

    Args:
      actual: a port (see :mod:`jaxlstm.check.subjects.port`), or activations: a mapping from ``"l0"``,
        ``"l0_reverse"``, ``"l1"``, ... to arrays (time, batch, units) under the names i, f, g, o, c and h.
        Any of them may be missing.
      params: arrays under torch's names.
      config: the LSTM.
      inputs: (time, batch, input_size). For a port, None selects a random ragged batch.
      initial_state: (h_0, c_0), or None for zeros.
      seq_lengths: ints (batch,), or None if every step is valid.
      dtype: the dtype in which a port is run.
      tolerance: absolute, and relative above 1. None selects it by dtype.

    Raises:
      ValueError: if activations come without their inputs or have the wrong shape.
    """
    if inputs is None and not callable(actual):
        raise ValueError("inputs must be the inputs of the recorded activations, got None")
    case = ordinary_case(config)
    if inputs is not None:
        h_0, c_0 = initial_state or (None, None)
        arrays = {"inputs": inputs, "h_0": h_0, "c_0": c_0, "seq_lengths": seq_lengths}
        case = replace(case, arrays={name: np.asarray(a) for name, a in arrays.items() if a is not None})
    if callable(actual):
        return locate_difference(Port.of(actual, params, config), case, dtype, tolerance)
    return _first_difference(_activations(actual, params, config, case), tolerance)


def _activations(
    actual: Activations, params: Mapping[str, Any], config: LSTMConfig, case: Case
) -> Iterator[Candidate]:
    """Yield the recorded activations and the oracle's, in the order of computation.

    Raise a ValueError for a layer or gate that the LSTM does not have and that nothing would compare.
    """
    runs = {
        f"l{layer}_reverse" if reverse else f"l{layer}": (layer, reverse, run)
        for layer, runs in enumerate(OracleLSTM(params, config).call(case).run().record)
        for reverse, run in enumerate(runs)
    }
    for name, recorded in actual.items():
        if name not in runs:
            raise ValueError(f"the layers of actual must be some of {list(runs)}, got {name!r}")
        if unknown := recorded.keys() - set(oracle.Step._fields):
            raise ValueError(f"{name} may have the arrays {oracle.Step._fields}, got {sorted(unknown)}")
    for name, (layer, reverse, run) in runs.items():
        pairs = {
            gate: (np.asarray(actual[name][gate]), expected)
            for gate, expected in run.steps._asdict().items()
            if gate in actual.get(name, ())
        }
        for gate, (value, expected) in pairs.items():
            if value.shape != expected.shape:
                raise ValueError(f"{name} {gate} has shape {value.shape}, expected {expected.shape}")
        lengths = case.valid.sum(0)
        for times, rows in oracle.running(lengths, bool(reverse)):
            numbers = np.arange(len(lengths))[rows]
            for index in zip(np.broadcast_to(times, len(numbers)).tolist(), numbers.tolist(), strict=True):
                yield (layer, reverse, *index), {gate: (a[index], b[index]) for gate, (a, b) in pairs.items()}


def locate_difference(
    port: Port, case: Case, dtype: Any, tolerance: float | None = None
) -> Divergence | None:
    """Return the first number in which a port differs from the oracle, or None.

    A port returns only outputs and final states. It is therefore run on the first 1, 2, 3, ... steps of the
    case until a run differs. The lowest layer whose state differs is the place.
    """
    config = port.config
    case = port.adapt(case).astype(dtype)
    runs = partial(port.run, dtype=dtype), OracleLSTM(port.params, config).rounded(dtype).run
    for steps in range(1, case.inputs.shape[0] + 1):
        part = _first_steps(case, steps)
        ours, theirs = (run(part) for run in runs)
        difference = _first_difference(_states(ours, theirs, config, part), tolerance)
        if difference is None:
            difference = _first_difference(_outputs(ours, theirs, config), tolerance)
        if difference is not None:
            return difference
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
            index = time, row, reverse
            yield (config.num_layers - 1, reverse, time, row), {"output": (a[index], b[index])}


def _have(name: str, ours: Results, theirs: Results) -> bool:
    """Return True if both results have an output of this name in the same shape."""
    return name in ours.outputs and ours.outputs[name].shape == theirs.outputs[name].shape


def _first_difference(candidates: Iterable[Candidate], tolerance: float | None) -> Divergence | None:
    """Return the first number of any candidate that differs from the oracle's, or None."""
    for (layer, reverse, time, row), gates in candidates:
        for gate, (actual, expected) in gates.items():
            for unit in differing_units(actual, expected, tolerance)[:1].tolist():
                direction = "reverse" if reverse else "forward"
                values = float(actual[unit]), float(expected[unit])
                return Divergence(layer, direction, time, row, gate, unit, *values)
    return None


def differing_units(actual: Array, expected: Array, tolerance: float | None) -> Array:
    """Return the indices further from the oracle than ``tolerance``, which is relative above 1."""
    if tolerance is None:
        tolerance = AGREEMENT.get(actual.dtype.name, EQUAL)
    allowed = tolerance * np.maximum(1.0, np.abs(expected))
    return np.flatnonzero(~(np.abs(np.asarray(actual, np.float64) - expected) <= allowed))


EXACT, ROUNDED = 1e-8, 1e-3
"""Largest error relative to the largest element of a gradient, in float64 and in other dtypes."""


def wrong_gradients(ours: Mapping[str, Array], truth: Mapping[str, Array]) -> list[str]:
    """Describe each gradient whose error exceeds rounding; those with the same error share a line."""
    names_by_error: dict[str, list[str]] = {}
    for name in (name for name in truth if name in ours):
        actual, expected = np.asarray(ours[name], np.float64), truth[name]
        limit = largest(expected) * (EXACT if ours[name].dtype == np.float64 else ROUNDED)
        if not np.max(np.abs(actual - expected), initial=0.0) <= limit:
            names_by_error.setdefault(_describe_error(actual, expected), []).append(name)
    return [f"the gradient of {', '.join(names)} {error}" for error, names in names_by_error.items()]


def _describe_error(actual: Array, expected: Array) -> str:
    if not actual.any():
        return "is zero, as after stop_gradient"
    if not np.isfinite(actual).all():
        return "is not finite"
    if not expected.any():
        return "is not zero"
    factor = float(np.vdot(actual, expected) / (np.vdot(expected, expected) or 1.0))
    if np.max(np.abs(actual - factor * expected)) <= 1e-4 * np.max(np.abs(actual)):
        return f"is {format_number(factor)} times the correct gradient"
    return "is wrong"
