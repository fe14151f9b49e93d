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
        for times, rows in oracle.running(case.valid.sum(0), bool(reverse)):
            for at in zip(times.tolist(), rows.tolist(), strict=True):
                yield (layer, reverse, *at), {gate: (a[at], b[at]) for gate, (a, b) in pairs.items()}
