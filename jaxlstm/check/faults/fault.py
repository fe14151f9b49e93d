"""A fault: one error of a port, as a transformation of a call of the oracle.

Faults compose. A fault maps one :class:`OracleCall` to another, whatever faults were applied before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jaxlstm.check.reference import oracle
from jaxlstm.check.reference.cases import Case
from jaxlstm.check.reference.results import Results
from jaxlstm.config import LSTMConfig

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
        state = case.initial_state
        if state is None:
            h_shape, c_shape = config.state_shapes(case.inputs.shape[1])
            state = (np.zeros(h_shape), np.zeros(c_shape))
        return cls(
            {name: np.asarray(a).astype(np.float64) for name, a in params.items()},
            case.inputs.astype(np.float64),
            (state[0].astype(np.float64), state[1].astype(np.float64)),
            oracle.lengths_of(case.seq_lengths, case.inputs),
            config,
        )

    def run(self, *, layers: int | None = None) -> oracle.OracleRun:
        """Run the oracle, without ``finish``. If ``layers`` is given, run only the first layers."""
        config = self.config
        if layers is not None and layers < config.num_layers:
            config = replace(config, num_layers=layers, dropout=0.0)
        with np.errstate(all="ignore"):
            return oracle.forward(
                self.params,
                self.inputs,
                self.state,
                self.lengths,
                config,
                equations=self.equations,
            )

    def finished(self, run: oracle.OracleRun) -> Results:
        """Return the results of a run, with ``finish`` applied."""
        results = Results(run.outputs, run.h_n, run.c_n)
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
Applies = Callable[[LSTMConfig], bool]


def always(config: LSTMConfig) -> bool:
    """Return True: every config can have the fault."""
    return True


def has_bias(config: LSTMConfig) -> bool:
    """Return True if the LSTM has biases."""
    return config.bias


def is_bidirectional(config: LSTMConfig) -> bool:
    """Return True if the LSTM has two directions."""
    return config.bidirectional


def is_stacked(config: LSTMConfig) -> bool:
    """Return True if the LSTM has several layers."""
    return config.num_layers > 1


def is_stacked_bidirectional(config: LSTMConfig) -> bool:
    """Return True if the LSTM has several layers of two directions."""
    return is_stacked(config) and is_bidirectional(config)


def is_projected(config: LSTMConfig) -> bool:
    """Return True if the LSTM projects h."""
    return config.proj_size > 0


def is_not_projected(config: LSTMConfig) -> bool:
    """Return True if h and c have the same shape."""
    return config.proj_size == 0


@dataclass(frozen=True)
class Fault:
    """One error of a port.

    Attributes:
      cause: completes the sentence "the port matches an LSTM in which ...".
      apply: applies the fault to a call.
      group: two faults of one group are not combined.
      applies: returns True for the configs that can have the fault.
      rounding: True for faults of precision.
    """

    cause: str
    apply: Change
    group: str
    applies: Applies = always
    rounding: bool = False

    def only_finishes(self, call: OracleCall) -> bool:
        """Return True if the fault changes only the results of a run, not the run itself."""
        changed = self.apply(call)
        parts = ("params", "inputs", "state", "lengths", "equations")
        return all(getattr(changed, part) is getattr(call, part) for part in parts)
