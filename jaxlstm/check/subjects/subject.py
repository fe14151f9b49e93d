"""The subjects of a verification."""

from __future__ import annotations

from jaxlstm.check.subjects.model import ModelSubject
from jaxlstm.check.subjects.port import PortSubject

Subject = PortSubject | ModelSubject
"""A port of an LSTM with its parameters, or a model. Each has the methods of :class:`PortSubject`."""
