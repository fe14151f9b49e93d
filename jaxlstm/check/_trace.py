"""``trace``: the first place at which a port or recorded activations differ from the oracle."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from jaxlstm.check.cases.case import Case
from jaxlstm.check.cases.inputs import ordinary_case
from jaxlstm.check.diagnosis.locate import locate_difference
from jaxlstm.check.reference import oracle
from jaxlstm.check.reference.oracle_lstm import OracleLSTM
from jaxlstm.check.report.item import Candidate, Divergence, first_difference
from jaxlstm.check.subjects.port import Port
from jaxlstm.layer.config import LSTMConfig

Activations = Mapping[str, Mapping[str, Any]]


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
        given = {"inputs": inputs, "h_0": h_0, "c_0": c_0, "seq_lengths": seq_lengths}
        case = replace(case, arrays={name: np.asarray(a) for name, a in given.items() if a is not None})
    if callable(actual):
        return locate_difference(Port.of(actual, params, config), case, dtype, tolerance)
    return first_difference(_activations(actual, params, config, case), tolerance)


def _check_names(activations: Activations, config: LSTMConfig) -> None:
    """Raise a ValueError for a layer or gate that the LSTM does not have and that nothing would compare."""
    ends = ("", "_reverse") if config.bidirectional else ("",)
    layers = [f"l{layer}{end}" for layer in range(config.num_layers) for end in ends]
    gates = oracle.Step._fields
    for name, recorded in activations.items():
        if name not in layers:
            raise ValueError(f"the layers of actual must be some of {layers}, got {name!r}")
        if unknown := recorded.keys() - set(gates):
            raise ValueError(f"{name} may have the arrays {gates}, got {sorted(unknown)}")


def _activations(
    actual: Activations, params: Mapping[str, Any], config: LSTMConfig, case: Case
) -> Iterator[Candidate]:
    """Yield the recorded activations and the oracle's, in the order of computation."""
    _check_names(actual, config)
    lengths = case.valid.sum(0)
    for layer, runs in enumerate(OracleLSTM(params, config).call(case).run().record):
        for reverse, run in enumerate(runs):
            name = f"l{layer}_reverse" if reverse else f"l{layer}"
            recorded = actual.get(name, {})
            gates = {gate: np.asarray(recorded[gate]) for gate in oracle.Step._fields if gate in recorded}
            for gate, value in gates.items():
                expected = getattr(run.steps, gate).shape
                if value.shape != expected:
                    raise ValueError(f"{name} {gate} has shape {value.shape}, expected {expected}")
            for times, rows in oracle.running(lengths, bool(reverse)):
                for at in zip(times.tolist(), rows.tolist(), strict=True):
                    values = {gate: (a[at], getattr(run.steps, gate)[at]) for gate, a in gates.items()}
                    yield (layer, reverse, *at), values
