"""Checks that a JAX port of an LSTM or of a whole model equals torch's, and finds out why not.

Public names are imported on first use, so that the pytest plugin costs nothing until it is used. torch is
imported only by a check against torch.
"""

from typing import TYPE_CHECKING

from jaxlstm._shared.imports import lazy_names

if TYPE_CHECKING:
    from jaxlstm.check._compare import compare as compare
    from jaxlstm.check._verify import verify as verify
    from jaxlstm.check._verify import verify_cell as verify_cell
    from jaxlstm.check._verify_matrix import verify_matrix as verify_matrix
    from jaxlstm.check._verify_model import verify_model as verify_model
    from jaxlstm.check.diagnosis.locate import trace as trace
    from jaxlstm.check.report.item import Divergence as Divergence
    from jaxlstm.check.report.item import Item as Item
    from jaxlstm.check.report.report import CheckFailed as CheckFailed
    from jaxlstm.check.report.report import Report as Report

__all__, __getattr__, __dir__ = lazy_names(__name__)  # pyright: ignore[reportUnsupportedDunderAll]
