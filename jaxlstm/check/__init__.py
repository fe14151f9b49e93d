"""The checker: whether a port of an LSTM is right, and if not, where and why.

Names are handed on when they are first used, so that the pytest plugin costs a test run nothing until it
is asked; torch is imported only by a check that runs against it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxlstm.check.cell import verify_cell as verify_cell
    from jaxlstm.check.comparison import compare as compare
    from jaxlstm.check.divergence import trace as trace
    from jaxlstm.check.matrix import verify_matrix as verify_matrix
    from jaxlstm.check.place import Divergence as Divergence
    from jaxlstm.check.report import CheckFailed as CheckFailed
    from jaxlstm.check.report import Item as Item
    from jaxlstm.check.report import Report as Report
    from jaxlstm.check.verdict import verify as verify

_MODULE_OF = {
    "CheckFailed": "report",
    "Divergence": "place",
    "Item": "report",
    "Report": "report",
    "compare": "comparison",
    "trace": "divergence",
    "verify": "verdict",
    "verify_cell": "cell",
    "verify_matrix": "matrix",
}

__all__ = sorted(_MODULE_OF)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'jaxlstm.check' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"jaxlstm.check.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
