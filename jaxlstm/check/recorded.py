"""Recorded activations, gate by gate, against the oracle's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxlstm.check import oracle
from jaxlstm.check.inputs import Case
from jaxlstm.check.place import Divergence, first_unit, run_oracle
from jaxlstm.config import LSTMConfig

Activations = Mapping[str, Mapping[str, Any]]


def trace_activations(
    actual: Activations,
    params: Mapping[str, Any],
    config: LSTMConfig,
    case: Case,
    tolerance: float | None,
) -> Divergence | None:
    """The first activation that is not the oracle's, in the order of computation."""
    record = run_oracle(params, config, case).record
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
                    unit = first_unit(
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
