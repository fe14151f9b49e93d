"""The catalogue of faults that ports have had, each the oracle with one part exchanged."""

from __future__ import annotations

import itertools

from jaxlstm.check.faults import arithmetic, cells, states, time, weights
from jaxlstm.check.faults.fault import Call as Call
from jaxlstm.check.faults.fault import Fault as Fault
from jaxlstm.config import LSTMConfig

__all__ = ["Call", "Fault", "catalogue"]


def catalogue(config: LSTMConfig) -> tuple[Fault, ...]:
    """The faults that a config can have, the likelier first."""
    everything = itertools.chain(
        weights.faults(), states.faults(), time.faults(), cells.faults(), arithmetic.faults()
    )
    return tuple(fault for fault in everything if fault.applies(config))
