"""The data of a report, below the renderers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxlstm.check.report.difference import StepDifference
from jaxlstm.check.report.layers import LayerDifference

SCHEMA = 1
"""Version of the JSON. It grows when a key changes its meaning or is removed."""


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
    """

    name: str
    ok: bool | None
    measured: float | None = None
    limit: float | None = None
    detail: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> str:
        """ "ok", "FAILED" or "untested"."""
        return {True: "ok", False: "FAILED", None: "untested"}[self.ok]


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


@dataclass(frozen=True)
class ReportData:
    """The fields of a :class:`~jaxlstm.check.Report` and the values that follow from them.

    Attributes:
      title: the port and the dtype that were checked.
      items: the outcome of every check.
      diagnosis: explanations of a failure, the most likely first.
      notes: facts that limit the verdict, such as tolerances set by the caller.
      settings: the arguments of the check.
      environment: the versions, device and precision of the check.
      heatmaps: the errors over time and units.
      again: the call or command that repeats the check.
      difference: the first step at which the port differs from the oracle, or None.
      layers: the layers of a model that failed, in torch's order of calls.
    """

    title: str
    items: tuple[Item, ...]
    diagnosis: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    heatmaps: tuple[Heatmap, ...] = ()
    again: str = ""
    difference: StepDifference | None = None
    layers: tuple[LayerDifference, ...] = ()

    @property
    def ok(self) -> bool:
        """True if no item failed and at least one passed."""
        tested = [item.ok for item in self.items if item.ok is not None]
        return bool(tested) and all(tested)

    @property
    def failures(self) -> tuple[Item, ...]:
        """The items that failed."""
        return tuple(item for item in self.items if item.ok is False)

    @property
    def word(self) -> str:
        """ "HOLDS" or "DOES NOT HOLD"."""
        return "HOLDS" if self.ok else "DOES NOT HOLD"

    @property
    def counts(self) -> str:
        """The number of items by status, in words."""
        statuses = [item.status for item in self.items]
        counts = {status: statuses.count(status) for status in ("ok", "FAILED", "untested")}
        return ", ".join(f"{n} {status.lower()}" for status, n in counts.items() if n)

    @property
    def verdict(self) -> str:
        """The title, the verdict and the number of items by status, in one line."""
        return f"{self.title}: {self.word} ({self.counts})"

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain Python values."""
        return {
            "schema": SCHEMA,
            "ok": self.ok,
            "title": self.title,
            "diagnosis": list(self.diagnosis),
            "items": [
                {
                    "name": item.name,
                    "status": item.status,
                    "measured": item.measured,
                    "limit": item.limit,
                    "detail": item.detail,
                    "data": dict(item.data),
                }
                for item in self.items
            ],
            "notes": list(self.notes),
            "settings": dict(self.settings),
            "environment": dict(self.environment),
            "again": self.again,
            "difference": self.difference.to_dict() if self.difference else None,
            "layers": [{**layer._asdict(), "ok": layer.ok} for layer in self.layers],
        }

    def to_json(self) -> str:
        """Return :meth:`to_dict` as strict JSON, with NaN and the infinities as strings."""
        return json.dumps(_strict(self.to_dict()), indent=2, allow_nan=False)


def _strict(value: Any) -> Any:
    """Replace the floats that JSON lacks with their names."""
    if isinstance(value, Mapping):
        return {str(key): _strict(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(entry) for entry in value]
    if isinstance(value, (bool, int, str)) or value is None:
        return value
    as_float = float(value)
    return as_float if math.isfinite(as_float) else str(as_float)
