"""A fault: one error of a port, as a transformation of a call of the oracle.

Faults compose. A fault maps one call to another, whatever faults were applied before.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxlstm.check.reference.oracle import OracleCall
from jaxlstm.layer.config import LSTMConfig

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


def equations(**parts: Any) -> Change:
    """Return the change that replaces some of the equations."""
    return lambda call: call.with_equations(**parts)


def properties(config: LSTMConfig) -> set[str]:
    """Return the properties of a config that decide which faults it can have."""
    sizes = map(config.layer_input_size, range(config.num_layers))
    present = {
        "bias": config.bias,
        "bidirectional": config.bidirectional,
        "stacked": config.num_layers > 1,
        "projected": config.proj_size > 0,
        "not-projected": config.proj_size == 0,
        "square-weight_ih": config.hidden_size in sizes,
        "several-alike": len(layers_alike(config)) > 1,
    }
    return {name for name, holds in present.items() if holds}


def layers_alike(config: LSTMConfig) -> range:
    """Return the layers whose parameters have the same shapes."""
    first_is_alike = config.layer_input_size(0) == config.output_size
    return range(0 if first_is_alike else 1, config.num_layers)
