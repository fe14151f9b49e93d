"""The catalogue of faults."""

from jaxlstm.check.reference.faults import cells, sequences
from jaxlstm.check.reference.faults.fault import Fault, properties
from jaxlstm.layer.config import LSTMConfig

_FAULTS = (*cells.WEIGHTS, *sequences.STATES, *sequences.TIME, *cells.FORMULAS, *cells.PRECISION)


def catalogue(config: LSTMConfig) -> tuple[Fault, ...]:
    """Return the faults that a config can have, the more likely first."""
    present = properties(config)
    return tuple(fault for fault in _FAULTS if present.issuperset(fault.needs.split()))
