"""The parts of a report: the outcome of one check, and a grid of numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


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
