"""The checker: whether a port of an LSTM is right, and if not, where and why.

torch is not imported here, only by a check that runs against it.
"""

# Not lazily: a function handed on later would be hidden by the module of the same name.
from jaxlstm.check.cell import verify_cell as verify_cell
from jaxlstm.check.compare import compare as compare
from jaxlstm.check.report import CheckFailed as CheckFailed
from jaxlstm.check.report import Item as Item
from jaxlstm.check.report import Report as Report
from jaxlstm.check.trace import Divergence as Divergence
from jaxlstm.check.trace import trace as trace
from jaxlstm.check.verify import verify as verify

__all__ = [
    "CheckFailed",
    "Divergence",
    "Item",
    "Report",
    "compare",
    "trace",
    "verify",
    "verify_cell",
]
