"""The parts of a report: the outcome of one check, the difference of one layer, and a grid of numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jaxlstm._shared.table import format_number


@dataclass(frozen=True)
class Item:
    """The outcome of one check.

    Attributes:
      name: the quantity or property that was checked.
      ok: True if the check passed, False if it failed, None if it was not possible; see ``detail``.
      measured: the measured value, if there is one.
      limit: the largest value that passes.
      detail: the place of the worst element, or the actual and expected values.
      data: further numbers, for the JSON.
      id: identifies the criterion, and the reference if it is judged against several.
      kind: what a failure says: "exact", "semantic", "precision" or "gradient"; empty if nothing was judged.
    """

    name: str
    ok: bool | None
    measured: float | None = None
    limit: float | None = None
    detail: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""
    kind: str = ""

    @property
    def status(self) -> str:
        """ "ok", "FAILED" or "untested"."""
        return {True: "ok", False: "FAILED", None: "untested"}[self.ok]

    def to_dict(self) -> dict[str, Any]:
        """Return the item as plain Python values, with its status in place of ``ok``."""
        fields = {name: getattr(self, name) for name in ("id", "kind", "name", "status", "measured", "limit")}
        return {**fields, "detail": self.detail, "data": dict(self.data)}


@dataclass(frozen=True)
class Heatmap:
    """A grid of non-negative numbers, ``rows[y][x]``, such as errors over time and units.

    ``x`` and ``y`` name the axes. ``labels`` are those of the rows, empty for numbered rows. The color scale
    starts at ``floor`` or, if that is 0, some orders of magnitude below the largest number.
    """

    title: str
    x: str
    y: str
    rows: list[list[float]]
    labels: tuple[str, ...] = ()
    floor: float = 0.0


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
