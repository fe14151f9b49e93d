"""The category of warnings about settings that a checkpoint does not record."""

from __future__ import annotations


class PortingWarning(UserWarning):
    """A setting that the source does not record and that may differ from the torch module's."""
