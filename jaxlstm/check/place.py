"""A place in an LSTM at which a number is not the oracle's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxlstm.check import oracle
from jaxlstm.check.inputs import Case
from jaxlstm.config import LSTMConfig

Array = np.ndarray

TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
"""How far from the oracle a number may be, absolute, and relative above 1."""


class Divergence(NamedTuple):
    """The first number that is not the oracle's.

    ``gate`` is one of i, f, g, o, c, h; "i*g", where a port shows only the product; or "output".
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
        """The step, without the gate and unit."""
        return f"layer {self.layer}, {self.direction}, at time {self.time}, row {self.row}"

    def __str__(self) -> str:
        return (
            f"leaves the oracle first in {self.where}, in {self.gate}, unit {self.unit}: "
            f"{self.actual:.9g}, wanted {self.expected:.9g}"
        )


class GateError(NamedTuple):
    """How many of the units of a gate are off, and the worst of them."""

    gate: str
    off: int
    units: int
    worst: int
    actual: float
    expected: float

    def __str__(self) -> str:
        return (
            f"{self.gate}: {self.off} of {self.units} units off; the worst, {self.worst}: "
            f"{self.actual:.9g}, wanted {self.expected:.9g}"
        )


class Difference(NamedTuple):
    """Where a port leaves the oracle, and the numbers of that row there.

    ``gates`` has (units,) of the port and of the oracle for each of f, i*g, o, c and h that can be told; or
    for "output".
    """

    place: Divergence
    gates: Mapping[str, tuple[Array, Array]]

    def errors(self) -> dict[str, Array]:
        """The distance of each unit, by gate."""
        with np.errstate(invalid="ignore"):
            return {gate: np.abs(a.astype(np.float64) - b) for gate, (a, b) in self.gates.items()}

    def summary(self) -> Iterator[GateError]:
        """Gate by gate, in the order of computation."""
        for gate, error in self.errors().items():
            actual, expected = self.gates[gate]
            worst, off = int(np.argmax(error)), units_off(actual, expected, None).size
            yield GateError(
                gate, off, error.size, worst, float(actual[worst]), float(expected[worst])
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values."""
        return {**self.place._asdict(), "gates": [gate._asdict() for gate in self.summary()]}


def run_oracle(params: Mapping[str, Any], config: LSTMConfig, case: Case) -> oracle.Result:
    """The oracle on a case, with the record of every gate."""
    with np.errstate(all="ignore"):
        return oracle.forward(params, case.inputs, case.initial_state, case.seq_lengths, config)


def units_off(actual: Array, expected: Array, tolerance: float | None) -> Array:
    """The elements that are further from the oracle than allowed; None: by the dtype of ``actual``."""
    far = TOLERANCE.get(actual.dtype.name, 1e-9) if tolerance is None else tolerance
    allowed = far * np.maximum(1.0, np.abs(expected))
    return np.flatnonzero(~(np.abs(np.asarray(actual, np.float64) - expected) <= allowed))


def first_unit(actual: Array, expected: Array, tolerance: float | None) -> int | None:
    """The first of :func:`units_off`."""
    wrong = units_off(actual, expected, tolerance)
    return int(wrong[0]) if wrong.size else None
