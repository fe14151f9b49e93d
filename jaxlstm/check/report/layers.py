"""The difference of one layer of a model from torch's."""

from __future__ import annotations

import math
from typing import NamedTuple

from jaxlstm._shared.table import format_number


class LayerDifference(NamedTuple):
    """The distance of a layer's inputs and outputs from torch's, relative to torch's largest element.

    ``theirs`` and ``ours`` are paths of modules, empty for the model itself; ``kind`` is torch's class.
    ``shape`` and ``ours_shape`` belong to the first output; without an output they are ``()``.
    """

    theirs: str
    ours: str
    kind: str
    shape: tuple[int, ...]
    ours_shape: tuple[int, ...]
    inputs: float
    outputs: float
    limit: float

    @property
    def ok(self) -> bool:
        """True if the outputs equal torch's."""
        return self.outputs <= self.limit

    @property
    def difference(self) -> str:
        """The distance of the outputs in words."""
        if math.isfinite(self.outputs):
            return format_number(self.outputs)
        # Axes may be permuted, as between channels first and last.
        if sorted(self.ours_shape) != sorted(self.shape):
            return f"shape {self.ours_shape} instead of {self.shape}"
        return "other shape or not finite"

    @property
    def name(self) -> str:
        """The path in the model and, if it differs, torch's."""
        if not self.theirs:
            return "the whole model"
        return self.ours if self.ours == self.theirs else f"{self.ours} (torch: {self.theirs})"
