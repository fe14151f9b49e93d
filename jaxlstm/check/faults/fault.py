"""A fault: one thing that a port gets wrong, as a transformation of a run of the oracle.

Faults compose: a fault takes a :class:`Call` and gives another, whatever was done to it before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jaxlstm.check import oracle
from jaxlstm.check.answer import Answer
from jaxlstm.check.inputs import Case
from jaxlstm.config import LSTMConfig

Array = np.ndarray
Finish = Callable[[Answer, oracle.Result, "Call"], Answer]


@dataclass(frozen=True)
class Call:
    """A run of the oracle before it is made: everything that decides its answer.

    ``finish`` are changes to the answer, in the order in which they are made.
    """

    params: Mapping[str, Array]
    inputs: Array
    state: tuple[Array, Array]
    lengths: Array
    config: LSTMConfig
    equations: oracle.Equations = oracle.TRUE
    finish: tuple[Finish, ...] = ()

    @classmethod
    def of(cls, params: Mapping[str, Any], config: LSTMConfig, case: Case) -> Call:
        """The call that a case makes, in float64."""
        time, batch = case.inputs.shape[:2]
        state = case.initial_state
        if state is None:
            h_shape, c_shape = config.state_shapes(batch)
            state = (np.zeros(h_shape), np.zeros(c_shape))
        return cls(
            {name: np.asarray(a).astype(np.float64) for name, a in params.items()},
            case.inputs.astype(np.float64),
            (state[0].astype(np.float64), state[1].astype(np.float64)),
            np.full(batch, time) if case.seq_lengths is None else np.asarray(case.seq_lengths),
            config,
        )

    def result(self, *, layers: int | None = None) -> oracle.Result:
        """The oracle's run, before ``finish``; of the first ``layers`` layers only, if told."""
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

    def finished(self, result: oracle.Result) -> Answer:
        """The answer that a run comes to."""
        answer = Answer(result.outputs, result.h_n, result.c_n)
        for change in self.finish:
            answer = change(answer, result, self)
        return answer

    def run(self) -> Answer:
        """The answer."""
        return self.finished(self.result())

    def with_equations(self, **parts: Any) -> Call:
        """The call with other equations."""
        return replace(self, equations=replace(self.equations, **parts))

    def then(self, change: Finish) -> Call:
        """The call with its answer changed."""
        return replace(self, finish=(*self.finish, change))


def always(config: LSTMConfig) -> bool:
    """The fault can happen to every config."""
    return True


@dataclass(frozen=True)
class Fault:
    """One thing that a port gets wrong.

    Attributes:
      cause: completes "the port agrees if ...".
      apply: the fault made.
      group: two faults of one group are not paired.
      applies: whether a config can have it.
      rounding: it is one of precision, not of meaning.
    """

    cause: str
    apply: Callable[[Call], Call]
    group: str
    applies: Callable[[LSTMConfig], bool] = always
    rounding: bool = False

    def only_finishes(self, call: Call) -> bool:
        """Whether the fault leaves the run as it is, and changes what is made of it."""
        changed = self.apply(call)
        parts = ("params", "inputs", "state", "lengths", "equations")
        return all(getattr(changed, part) is getattr(call, part) for part in parts)
