"""The place where a port first differs from the oracle."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxlstm.check.criteria.layer_distance import AGREEMENT, EQUAL
from jaxlstm.check.report.item import Heatmap, Section

Array = np.ndarray


class Divergence(NamedTuple):
    """The first number that differs from the oracle's.

    Attributes:
      layer, time, row, unit: indices from 0.
      direction: "forward" or "reverse".
      gate: one of i, f, g, o, c and h; "i*g" if a port shows only the product; or "output".
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

    @property
    def where(self) -> str:
        """The layer, direction, time and row."""
        return f"layer {self.layer}, {self.direction}, at time {self.time}, row {self.row}"

    def __str__(self) -> str:
        return (
            f"first differs from the oracle in {self.where}, in {self.gate}, unit {self.unit}: "
            f"{self.actual:.9g}, expected {self.expected:.9g}"
        )


class GateError(NamedTuple):
    """The number of units of a gate that differ from the oracle's, and the worst unit."""

    gate: str
    off: int
    units: int
    worst: int
    actual: float
    expected: float


class StepDifference(NamedTuple):
    """The first step at which a port differs from the oracle.

    ``gates`` maps each of f, i*g, o, c and h that the port shows, or "output", to the values of the port
    and of the oracle, each of shape (units,).
    """

    place: Divergence
    gates: Mapping[str, tuple[Array, Array]]

    def errors(self) -> dict[str, Array]:
        """Return the absolute error of each unit, by gate."""
        with np.errstate(invalid="ignore"):
            return {gate: np.abs(a.astype(np.float64) - b) for gate, (a, b) in self.gates.items()}

    def summary(self) -> Iterator[GateError]:
        """Yield the error of each gate, in the order of computation."""
        for gate, error in self.errors().items():
            actual, expected = self.gates[gate]
            worst, off = int(np.argmax(error)), differing_units(actual, expected, None).size
            yield GateError(gate, off, error.size, worst, float(actual[worst]), float(expected[worst]))

    def to_dict(self) -> dict[str, Any]:
        """Return the place and the summary as plain Python values."""
        return {**self.place._asdict(), "gates": [gate._asdict() for gate in self.summary()]}


def gates_section(difference: StepDifference) -> Section:
    """Return the gates of the first step that differs, as a table and as a heat map."""
    rows = [
        (
            "DIFFERS" if gate.off else "equal",
            gate.gate,
            f"{gate.off} of {gate.units}",
            str(gate.worst),
            f"{gate.actual:.9g}",
            f"{gate.expected:.9g}",
        )
        for gate in difference.summary()
    ]
    errors = difference.errors()
    values = [row.tolist() for row in errors.values()]
    grid = Heatmap("Distance from the oracle", "unit", "gate", values, tuple(errors))
    return Section(
        f"First difference from the oracle: {difference.place.where}",
        rows,
        ("status", "gate", "units that differ", "worst unit", "port", "oracle"),
        (2, 3, 4, 5),
        (grid,),
    )


Candidate = tuple[int, bool | int, int, int, str, Array, Array]
"""Layer, reverse, time, row, gate, and the values of a port and of the oracle, (units,) each."""


def first_divergence(candidates: Iterable[Candidate], tolerance: float | None) -> Divergence | None:
    """Return the first unit of the first candidate that differs from the oracle, or None."""
    for layer, reverse, time, row, gate, actual, expected in candidates:
        for unit in differing_units(actual, expected, tolerance)[:1].tolist():
            direction = "reverse" if reverse else "forward"
            values = float(actual[unit]), float(expected[unit])
            return Divergence(layer, direction, time, row, gate, unit, *values)
    return None


def differing_units(actual: Array, expected: Array, tolerance: float | None) -> Array:
    """Return the indices further from the oracle than ``tolerance``, which is relative above 1."""
    if tolerance is None:
        tolerance = AGREEMENT.get(actual.dtype.name, EQUAL)
    allowed = tolerance * np.maximum(1.0, np.abs(expected))
    return np.flatnonzero(~(np.abs(np.asarray(actual, np.float64) - expected) <= allowed))
