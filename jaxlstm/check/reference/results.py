"""The results of a run of an LSTM, whichever implementation ran it, and the oracle's results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from jaxlstm.check.reference import oracle
from jaxlstm.check.reference.cases import Case
from jaxlstm.check.reference.derivative import backward
from jaxlstm.layer.config import LSTMConfig

Array = np.ndarray


class NamedArrays(Protocol):
    """Results of a run as arrays by name."""

    def leaves(self) -> Iterator[tuple[str, Array]]:
        """Yield the name and array of each output."""
        ...

    def arrays(self) -> dict[str, Array]:
        """Return every array by name, with the gradient of ``x`` under ``d x``."""
        ...


class Results(NamedTuple):
    """Outputs, final state and gradients of an LSTM on one case.

    ``h_n`` and ``c_n`` are None if the implementation does not return them. ``gradients`` are those of the
    parameters, ``inputs``, ``h_0`` and ``c_0`` by name, or None if not computed.
    """

    outputs: Array
    h_n: Array | None
    c_n: Array | None
    gradients: Mapping[str, Array] | None = None

    def leaves(self) -> Iterator[tuple[str, Array]]:
        """Yield the name and array of outputs, h_n and c_n, unless it is None."""
        for name in ("outputs", "h_n", "c_n"):
            value = getattr(self, name)
            if value is not None:
                yield name, value

    def arrays(self) -> dict[str, Array]:
        """Return every array by name, with the gradient of ``x`` under ``d x``."""
        gradients = {f"d {name}": value for name, value in (self.gradients or {}).items()}
        return dict(self.leaves()) | gradients

    def astype(self, dtype: Any) -> Results:
        """Return the results rounded to ``dtype``."""
        gradients = self.gradients
        if gradients is not None:
            gradients = {name: a.astype(dtype) for name, a in gradients.items()}
        leaves = {name: a.astype(dtype) for name, a in self.leaves()}
        return self._replace(**leaves, gradients=gradients)


class Evidence(NamedTuple):
    """The results of a port on a case, and the parameters that it was given."""

    case: Case
    params: Mapping[str, Any]
    results: Results


@np.errstate(all="ignore")  # Cases contain NaN and infinity, and exp may underflow.
def run_oracle(
    params: Mapping[str, Any],
    config: LSTMConfig,
    case: Case,
    *,
    dtype: Any = np.float64,
    equations: oracle.Equations = oracle.CORRECT,
) -> oracle.OracleRun:
    """Run the oracle on a case and keep the record of every step."""
    return oracle.forward(
        params, case.inputs, case.initial_state, case.seq_lengths, config, dtype=dtype, equations=equations
    )


@np.errstate(all="ignore")
def oracle_results(
    params: Mapping[str, Any],
    config: LSTMConfig,
    case: Case,
    *,
    dtype: Any = np.float64,
    gradients: bool = False,
    equations: oracle.Equations = oracle.CORRECT,
) -> Results:
    """Return the oracle's results on a case, computed in ``dtype``."""
    run = run_oracle(params, config, case, dtype=dtype, equations=equations)
    results = Results(run.outputs, run.h_n, run.c_n)
    if not gradients:
        return results
    by_name = backward(params, run, case.seq_lengths, config, case.cotangents)
    if case.initial_state is None:
        del by_name["h_0"], by_name["c_0"]
    return results._replace(gradients=by_name)
