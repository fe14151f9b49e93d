"""The parts of a report: items, layers, and the first number that differs."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jaxlstm._shared.sections import Section
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
      kind: of a failure: "exact", "semantic", "precision" or "gradient"; empty if nothing was judged.
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
        """Return the item as plain Python values, with its status instead of ``ok``."""
        fields = {name: getattr(self, name) for name in ("id", "kind", "name", "status", "measured", "limit")}
        return {**fields, "detail": self.detail, "data": dict(self.data)}


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


def items_section(items: Iterable[Item]) -> Section:
    """Return the items as a table."""
    rows = [(i.status, i.name, format_number(i.measured), format_number(i.limit), i.detail) for i in items]
    return Section("Items", rows, ("status", "item", "measured", "limit", "detail"), (2, 3))


def layers_section(layers: Iterable[LayerDifference]) -> Section:
    """Return the layers of a model as a table, in the order of calls."""
    rows = [("equal" if a.ok else "DIFFERS", a.name, a.kind, a.difference) for a in layers]
    return Section("Layers", rows, ("status", "layer", "type", "difference / largest element"), (3,))


class Divergence(NamedTuple):
    """The first number that differs from the oracle's.

    Attributes:
      layer, time, row, unit: indices from 0.
      direction: "forward" or "reverse".
      gate: "c", "h" or "output" of a port; for recorded activations also "i", "f", "g" or "o".
      actual: the number of the port.
      expected: the number of the oracle.
    """

    layer: int
    direction: str
    time: int
    row: int
    gate: str
    unit: int
    actual: float
    expected: float

    def __str__(self) -> str:
        return (
            f"first differs from the oracle in layer {self.layer}, {self.direction}, at time {self.time}, "
            f"row {self.row}, in {self.gate}, unit {self.unit}: "
            f"{self.actual:.9g}, expected {self.expected:.9g}"
        )
