"""The catalogue of faults."""

from __future__ import annotations

import itertools

from jaxlstm.check.faults import arithmetic, cells, states, time, weights
from jaxlstm.check.faults.fault import Fault
from jaxlstm.config import LSTMConfig


def catalogue(config: LSTMConfig) -> tuple[Fault, ...]:
    """Return the faults that a config can have, the more likely first."""
    faults = itertools.chain(
        weights.faults(), states.faults(), time.faults(), cells.faults(), arithmetic.faults()
    )
    return tuple(fault for fault in faults if fault.applies(config))
