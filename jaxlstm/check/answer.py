"""What a run of an LSTM answered, by whomever it was run, and the oracle's answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxlstm.check import oracle
from jaxlstm.check.inputs import Case
from jaxlstm.config import LSTMConfig

Array = np.ndarray


class Answer(NamedTuple):
    """Outputs (time, batch, D*h_size), h_n and c_n (None: not told), and gradients by name, if asked.

    The names of gradients are those of the parameters, and ``inputs``, ``h_0``, ``c_0``.
    """

    outputs: Array
    h_n: Array | None
    c_n: Array | None
    gradients: Mapping[str, Array] | None = None

    def leaves(self) -> Iterator[tuple[str, Array]]:
        """Name and array of outputs, h_n and c_n, as far as they were told."""
        for name in ("outputs", "h_n", "c_n"):
            value = getattr(self, name)
            if value is not None:
                yield name, value

    def everything(self) -> dict[str, Array]:
        """Results and gradients by name; that of a gradient is ``d <name>``."""
        found = dict(self.leaves())
        return found | {f"d {name}": value for name, value in (self.gradients or {}).items()}

    def astype(self, dtype: Any) -> Answer:
        """The answer with every number rounded to ``dtype``."""
        return Answer(
            self.outputs.astype(dtype),
            None if self.h_n is None else self.h_n.astype(dtype),
            None if self.c_n is None else self.c_n.astype(dtype),
            None
            if self.gradients is None
            else {name: a.astype(dtype) for name, a in self.gradients.items()},
        )


def of_oracle(
    params: Mapping[str, Any],
    config: LSTMConfig,
    case: Case,
    *,
    dtype: Any = np.float64,
    gradients: bool = False,
    equations: oracle.Equations = oracle.TRUE,
) -> Answer:
    """The oracle's answer to a case, computed in ``dtype``."""
    with np.errstate(all="ignore"):  # NaN and Inf are asked for, and exp may vanish
        result = oracle.forward(
            params,
            case.inputs,
            case.initial_state,
            case.seq_lengths,
            config,
            dtype=dtype,
            equations=equations,
        )
        answer = Answer(result.outputs, result.h_n, result.c_n)
        if not gradients:
            return answer
        found = oracle.backward(params, result, case.seq_lengths, config, case.cotangents)
    by_name = {**found.params, "inputs": found.inputs}
    if case.initial_state is not None:
        by_name |= {"h_0": found.h_0, "c_0": found.c_0}
    return answer._replace(gradients=by_name)
