"""A fault: one error of a port, as a transformation of a call of the oracle.

Faults compose. A fault maps one :class:`OracleCall` to another, whatever faults were applied before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jaxlstm.check.cases.case import Case
from jaxlstm.check.cases.results import Results
from jaxlstm.check.reference import oracle
from jaxlstm.layer.config import LSTMConfig

Array = np.ndarray
Finish = Callable[[Results, oracle.OracleRun, "OracleCall"], Results]


@dataclass(frozen=True)
class OracleCall:
    """The arguments of the oracle, its equations, and changes to its results.

    ``finish`` holds changes to the results, in the order in which they apply.
    """

    params: Mapping[str, Array]
    inputs: Array
    state: tuple[Array, Array]
    lengths: Array
    config: LSTMConfig
    equations: oracle.Equations = oracle.CORRECT
    finish: tuple[Finish, ...] = ()

    @classmethod
    def of(cls, params: Mapping[str, Any], config: LSTMConfig, case: Case) -> OracleCall:
        """Return the call for a case, in float64."""
        return cls(
            {name: np.asarray(a).astype(np.float64) for name, a in params.items()},
            case.inputs.astype(np.float64),
            oracle.state_of(case.initial_state, config, case.inputs.shape[1]),
            oracle.lengths_of(case.seq_lengths, case.inputs),
            config,
        )

    def run(self, *, layers: int | None = None) -> oracle.OracleRun:
        """Run the oracle, without ``finish``. If ``layers`` is given, run only the first layers."""
        config = self.config
        if layers is not None and layers < config.num_layers:
            config = replace(config, num_layers=layers, dropout=0.0)
        with np.errstate(all="ignore"):
            arguments = (self.params, self.inputs, self.state, self.lengths, config)
            return oracle.forward(*arguments, equations=self.equations)

    def finished(self, run: oracle.OracleRun) -> Results:
        """Return the results of a run, with ``finish`` applied."""
        results = Results.of_lstm(run.outputs, run.h_n, run.c_n)
        for change in self.finish:
            results = change(results, run, self)
        return results

    def results(self) -> Results:
        """Run the oracle and return its results, with ``finish`` applied."""
        return self.finished(self.run())

    def with_equations(self, **parts: Any) -> OracleCall:
        """Return the call with some of its equations replaced."""
        return replace(self, equations=replace(self.equations, **parts))

    def then(self, change: Finish) -> OracleCall:
        """Return the call with one more change to its results."""
        return replace(self, finish=(*self.finish, change))


Change = Callable[[OracleCall], OracleCall]


@dataclass(frozen=True)
class Fault:
    """One error of a port.

    Attributes:
      cause: completes the sentence "the port matches an LSTM in which ...".
      apply: applies the fault to a call.
      group: two faults of one group are not combined.
      needs: the properties (see :func:`properties`) that a config must have, separated by spaces.
      rounding: True for faults of precision.
    """

    cause: str
    apply: Change
    group: str
    needs: str = ""
    rounding: bool = False

    def only_finishes(self, call: OracleCall) -> bool:
        """Return True if the fault changes only the results of a run, not the run itself."""
        changed = self.apply(call)
        parts = ("params", "inputs", "state", "lengths", "equations")
        return all(getattr(changed, part) is getattr(call, part) for part in parts)


def properties(config: LSTMConfig) -> set[str]:
    """Return the properties of a config that decide which faults it can have."""
    sizes = map(config.layer_input_size, range(config.num_layers))
    present = {
        "bias": config.bias,
        "bidirectional": config.bidirectional,
        "stacked": config.num_layers > 1,
        "projected": config.proj_size > 0,
        "projected-to-several": config.proj_size > 1,
        "not-projected": config.proj_size == 0,
        "square-weight_ih": config.hidden_size in sizes,
        "several-alike": len(layers_alike(config)) > 1,
    }
    return {name for name, holds in present.items() if holds}


def layers_alike(config: LSTMConfig) -> range:
    """Return the layers whose parameters have the same shapes."""
    first_is_alike = config.layer_input_size(0) == config.output_size
    return range(0 if first_is_alike else 1, config.num_layers)
