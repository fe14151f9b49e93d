"""Errors in the layout of results that can accompany any fault: swapped axes and unmasked padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from jaxlstm.check.cases.results import Results
from jaxlstm.check.verification import Evidence
from jaxlstm.layer.config import LSTMConfig

Array = np.ndarray


def swapped_arrays(evidence: Sequence[Evidence], config: LSTMConfig) -> set[str]:
    """Return the names of the arrays whose first two axes are swapped.

    Only a case whose shape is not square shows this.
    """
    swapped = set()
    for entry in evidence:
        for name, (first, second, last) in _shapes(entry, config):
            value = entry.results.outputs.get(name)
            if value is not None and first != second and value.shape == (second, first, last):
                swapped.add(name)
    return swapped


def repair_layout(entry: Evidence, config: LSTMConfig, swapped: set[str]) -> tuple[Results, list[str]]:
    """Return the results with swapped axes restored, and a description of each layout error.

    Arrays of any other wrong shape are left out.
    """
    causes: list[str] = []
    outputs: dict[str, Array] = {}
    for name, shape in _shapes(entry, config):
        value = entry.results.outputs.get(name)
        if value is not None and name in swapped:
            value = value.swapaxes(0, 1)
            causes.append(f"the first two axes of {name} are swapped")
        if value is not None and value.shape == shape:
            outputs[name] = value
    padding = outputs["outputs"][~entry.case.valid] if "outputs" in outputs else np.empty(0)
    if np.any(np.asarray(padding, np.float64) != 0):
        causes.append("the outputs in the padding are not zeroed")
    return Results(outputs), causes


def _shapes(entry: Evidence, config: LSTMConfig) -> Iterator[tuple[str, tuple[int, int, int]]]:
    time, batch = entry.case.inputs.shape[:2]
    h_shape, c_shape = config.state_shapes(batch)
    yield "outputs", (time, batch, config.output_size)
    yield "h_n", h_shape
    yield "c_n", c_shape
